//! Vouchers: prepared messages, and what becomes of them when the shop dies in between.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use unanimity_sdk::{Client, Decision, Xid};
use uuid::Uuid;

use super::stack::{Member, Stack};
use crate::demo;
use crate::services::http_client;
use crate::shop::{Crash, NewVoucher};

/// How long one may take to be settled: the time for its submit, and that of some attempts.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// How a voucher is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All goes well.
    Well,
    /// The local transaction is rolled back: there is not so much credit.
    RolledBack,
    /// The shop dies inside of its local transaction: the coordinator has to ask it.
    DiesBeforeCommit,
    /// The shop dies between its commit and its submit: the coordinator has to ask it.
    DiesAfterCommit,
}

/// A voucher, and what became of it.
#[derive(Debug, Clone)]
pub struct VoucherStory {
    /// Its message's transaction.
    pub xid: Xid,
    /// How it was issued.
    pub way: Way,
    /// Whether its message was delivered.
    pub delivered: bool,
}

/// Issues one in each way.
pub(super) async fn issue(stack: &mut Stack) -> anyhow::Result<Vec<VoucherStory>> {
    let mut stories = Vec::new();
    for way in [Way::Well, Way::RolledBack, Way::DiesBeforeCommit, Way::DiesAfterCommit] {
        stories.push(issue_one(stack, way).await.with_context(|| format!("the voucher {way:?}"))?);
    }
    Ok(stories)
}

async fn issue_one(stack: &mut Stack, way: Way) -> anyhow::Result<VoucherStory> {
    let (customer, cents, crash) = match way {
        Way::Well => ("ada", 500, None),
        Way::RolledBack => (demo::POOR, 1_000_000_000, None),
        Way::DiesBeforeCommit => ("ben", 700, Some(Crash::BeforeCommit)),
        Way::DiesAfterCommit => ("cleo", 900, Some(Crash::AfterCommit)),
    };
    let voucher = NewVoucher { id: Uuid::new_v4(), customer: customer.to_owned(), cents, crash };
    let url = format!("{}/vouchers", stack.url(Member::Shop));
    let answer = http_client()?.post(url).json(&voucher).send().await.map(|answer| answer.status());
    match way {
        Way::Well => ensure!(answer?.is_success(), "it was not issued"),
        Way::RolledBack => ensure!(answer? == StatusCode::CONFLICT, "it was issued"),
        Way::DiesBeforeCommit | Way::DiesAfterCommit => {
            ensure!(answer.is_err(), "the shop answered although it was to die: {answer:?}");
            stack.process(Member::Shop).dead().await?;
            stack.process(Member::Shop).restart().await?;
        }
    }
    let xid = Xid::new(voucher.id);
    let info = Client::connect(stack.coordinator_url())?.wait_finished(xid, SETTLED_MAX).await?;
    Ok(VoucherStory { xid, way, delivered: info.decision() == Some(Decision::Commit) })
}
