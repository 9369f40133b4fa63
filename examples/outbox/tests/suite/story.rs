//! The story, told in small.

use std::path::Path;

use outbox_example::story::{Answer, Options, Way, run};

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_be_killed_in_the_middle() {
    let program = Path::new(env!("CARGO_BIN_EXE_outbox-example"));
    let options = Options { orders: 150, kills: 4, seed: Some(2), ..Options::default() };
    let summary = run(options, program).await.unwrap();
    assert!(summary.held(), "seed {}: {:?} {:?}", summary.seed, summary.report, summary.contradictions);
    assert_eq!(summary.unfinished(), 0, "seed {}: {:?}", summary.seed, summary.report);
    assert_eq!(summary.kills.len(), 4, "a fault that was planned was not made");
    assert!(summary.count(Answer::Taken) > 0 && summary.count(Answer::RolledBack) > 0);
    assert_eq!(summary.dead.len(), 1);
    // H5: a check-back finds out what the shop could not say.
    let vouchers: Vec<_> = summary.vouchers.iter().map(|voucher| (voucher.way, voucher.delivered)).collect();
    assert_eq!(
        vouchers,
        [
            (Way::Well, true),
            (Way::RolledBack, false),
            (Way::DiesBeforeCommit, false),
            (Way::DiesAfterCommit, true),
        ]
    );
}
