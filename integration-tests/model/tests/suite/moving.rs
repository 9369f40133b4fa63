//! The log moves, every order.

use unanimity_model::explore::{explore, refute};
use unanimity_model::moving::{Bug, Config, Moving};

#[test]
fn h10_there_and_back() {
    let report = explore(Moving { config: Config::there_and_back() }, 1);
    println!("log, moved there and back: {report}");
    report.must_hold("log, moved there and back");
}

#[test]
fn every_broken_rule_is_found() {
    for bug in [Bug::NoSeal, Bug::SealIgnored, Bug::PlacementByFile] {
        let report = refute(Moving { config: Config::there_and_back().with(bug) });
        let found: Vec<&str> = report.broken.iter().map(|(rule, _)| *rule).collect();
        println!("{bug:?}: {found:?} after {report}");
        assert!(!found.is_empty(), "{bug:?} breaks nothing that the model sees: {report}");
    }
}
