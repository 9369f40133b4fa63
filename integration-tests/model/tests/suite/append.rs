//! The log and its owners, every order.

use unanimity_model::append::{Append, Bug, Config};
use unanimity_model::explore::{Report, explore, refute};

pub(crate) fn holds(name: &str, config: Config) -> Report {
    let report = explore(Append { config }, 1);
    println!("{name}: {report}");
    report.must_hold(name);
    report
}

fn refuted(bug: Bug, config: Config) {
    let report = refute(Append { config: config.with(bug) });
    let found: Vec<&str> = report.broken.iter().map(|(rule, _)| *rule).collect();
    println!("{bug:?}: {found:?} after {report}");
    assert!(!found.is_empty(), "{bug:?} breaks nothing that the model sees: {report}");
}

#[test]
fn c4_two_owners_and_appends_of_unknown_outcome() {
    holds("log, two owners", Config::owners());
}

#[test]
fn c7_cleaning_while_a_deposed_owner_writes() {
    holds("log, cleaning", Config { claims: 2, ..Config::cleaning() });
}

#[test]
fn c4_a_failover_loses_what_was_visible() {
    holds("log, failover", Config::failover());
}

#[test]
fn h6_a_lost_tail_and_its_witness() {
    holds("log, lost tail", Config::lost_tail());
}

#[test]
fn every_broken_rule_is_found() {
    refuted(Bug::NoCondition, Config::failover());
    refuted(Bug::TakenSeqOverwritten, Config::owners());
    refuted(Bug::SettledByRead, Config::owners());
    refuted(Bug::AnswerBeforeDurable, Config::owners());
    refuted(Bug::NoEpochBlock, Config::owners());
    refuted(Bug::TrimDeletesEpochs, Config::cleaning());
    refuted(Bug::TrimBeforeSnapshot, Config::cleaning());
    refuted(Bug::AlreadyThereReleases, Config::failover());
    refuted(Bug::WitnessIgnored, Config::lost_tail());
}
