//! The story, told in small.

use std::path::PathBuf;

use order_payment::order::Outcome;
use order_payment::story::{Launch, Options, Summary, run};

fn assert_well(summary: &Summary) {
    assert!(summary.invariants_held(), "seed {}: {:?}", summary.seed, summary.report);
    assert_eq!(summary.unfinished(), 0, "seed {}: {:?}", summary.seed, summary.report);
    let settled = summary.count(Outcome::Committed) + summary.count(Outcome::Aborted);
    assert_eq!(settled, summary.orders.len());
    assert!(summary.count(Outcome::Committed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_succeed_or_run_out_of_stock_or_money() {
    // A seed with which all of it happens.
    let options = Options { orders: 60, seed: Some(1), ..Options::default() };
    let summary = run(options, Launch::InProcess).await.unwrap();
    assert_well(&summary);
    for why in ["out of stock", "not enough money"] {
        assert!(summary.orders.iter().any(|story| story.ending.reason.starts_with(why)), "nobody ran {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_may_be_killed_in_the_middle() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_order-payment"));
    let options =
        Options { orders: 150, concurrency: 8, kills: Some(3), seed: Some(2), ..Options::default() };
    let summary = run(options, Launch::Processes(program)).await.unwrap();
    assert_well(&summary);
    assert_eq!(summary.kills.len(), 3, "a fault that was planned was not made");
}
