//! The story, told in small.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::path::Path;

use bank_transfer::story::{Options, run};
use bank_transfer::teller::Outcome;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_add_up_while_services_are_killed() {
    let program = Path::new(env!("CARGO_BIN_EXE_bank-transfer"));
    let options =
        Options { transfers: 120, concurrency: 6, kills: Some(3), seed: Some(1), ..Options::default() };
    let summary = run(options, program).await.unwrap();
    assert!(summary.invariants_held(), "{:?} {:?}", summary.report.violations, summary.contradictions);
    assert_eq!(summary.unfinished(), 0, "{summary:?}");
    assert_eq!(summary.count(Outcome::Committed), summary.report.whole.len());
    assert_eq!(summary.kills.len(), 3, "a fault that was planned was not made");
    let heard = |why: &str| summary.transfers.iter().any(|story| story.reason.ends_with(why));
    assert!(heard("not enough money"), "no account ran dry");
    // Where the tests run there is a MariaDB (`cargo xtask test` sees to it).
    assert!(summary.banks.iter().any(|(_, kind)| *kind == "MariaDB"), "{:?}", summary.banks);
}
