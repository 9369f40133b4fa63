//! The story, told in small.

use std::path::PathBuf;

use trip_saga::agency::Outcome;
use trip_saga::story::{Launch, Options, Summary, run};

fn assert_well(summary: &Summary) {
    assert!(summary.invariants_held(), "seed {}: {:?}", summary.seed, summary.report);
    assert_eq!(summary.unfinished(), 0, "seed {}: {:?}", summary.seed, summary.report);
    assert_eq!(summary.count(Outcome::Booked), summary.report.complete);
    let settled = summary.report.complete + summary.report.compensated + summary.report.nothing;
    // The trip that was mended is one more.
    assert_eq!(settled, summary.trips.len() + 1);
    assert!(summary.report.complete > 0);
    // A refused compensation was parked, and mended.
    let mended = &summary.mended;
    assert!(mended.attention.contains("takes no cancellations"), "{mended:?}");
    assert_eq!(mended.status, "aborted");
    let step = |name: &str| mended.steps.iter().find(|step| step.0 == name).unwrap().1.as_str();
    assert_eq!((step("charge"), step("hotel"), step("tickets")), ("refused", "compensating", "skipped"));
    // Reverse order: the flight waits for the hotel.
    assert_eq!((step("car"), step("flight")), ("compensated", "to_compensate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trips_succeed_or_turn_back_and_a_refused_compensation_is_mended() {
    // A seed with which all of it happens.
    let options = Options { trips: 60, seed: Some(1), ..Options::default() };
    let summary = run(options, Launch::InProcess).await.unwrap();
    assert_well(&summary);
    for why in ["sold out", "no car left", "not enough money"] {
        assert!(summary.trips.iter().any(|story| story.reason.starts_with(why)), "nobody heard {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_may_be_killed_in_the_middle() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_trip-saga"));
    let options = Options { trips: 150, concurrency: 8, kills: Some(4), seed: Some(2), ..Options::default() };
    let summary = run(options, Launch::Processes(program)).await.unwrap();
    assert_well(&summary);
    assert_eq!(summary.kills.len(), 4, "a fault that was planned was not made");
}
