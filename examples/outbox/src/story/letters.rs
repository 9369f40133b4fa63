//! Waiting until messages are delivered, and mending those that cannot be.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::stack::{Member, Stack};
use crate::demo;
use crate::relay::{Dead, Lag};
use crate::services::http_client;
use crate::warehouse::NewShelf;

/// Waits until nothing is under way any more, or too long; answers what is then. Dead letters are not under way.
pub(super) async fn settle(stack: &Stack, limit: Duration) -> anyhow::Result<u64> {
    let (http, relay) = (http_client()?, stack.url(Member::FirstRelay));
    let end = Instant::now() + limit;
    loop {
        let lag: Lag = http.get(format!("{relay}/relay")).send().await?.error_for_status()?.json().await?;
        let open = lag.pending + lag.handed;
        if open == 0 || Instant::now() >= end {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Finds the dead letters, mends their cause and replays them, as an operator does. Answers how they were
/// found.
pub(super) async fn mend(stack: &Stack) -> anyhow::Result<Vec<Dead>> {
    let (http, relay) = (http_client()?, stack.url(Member::SecondRelay));
    let mut dead: Vec<Dead> = Vec::new();
    loop {
        let after = dead.last().map_or(0, |letter| letter.place);
        let url = format!("{relay}/dead-letters?after={after}");
        let page: Vec<Dead> = http.get(url).send().await?.error_for_status()?.json().await?;
        if page.is_empty() {
            break;
        }
        dead.extend(page);
    }
    if dead.is_empty() {
        return Ok(dead);
    }
    let shelf = NewShelf { sku: demo::NO_SHELF.to_owned() };
    let url = format!("{}/shelves", stack.url(Member::Warehouse));
    http.post(url).json(&shelf).send().await?.error_for_status()?;
    for letter in &dead {
        let url = format!("{relay}/dead-letters/{}/replay", letter.id);
        let answer = http.post(url).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "the replay of {} was answered with {status}", letter.id);
    }
    Ok(dead)
}
