//! Rows O1 to O4: the sender dies around its relay's work.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::wait::until;
use serde_json::{Value, json};

use super::peer::{Peer, connect, effects};
use super::story::Tm;
use super::world::{World, died};

/// A case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    row: &'static str,
    pub(super) point: &'static str,
    hit: u32,
    pub(super) again: &'static [&'static str],
    /// Whether another sender over the same outbox goes on, while the dead one stays dead.
    takes_over: bool,
}

const fn case(row: &'static str, point: &'static str, hit: u32, again: &'static [&'static str]) -> Case {
    Case { row, point, hit, again, takes_over: false }
}

pub(super) const CASES: &[Case] = &[
    case("O2", "relay.before_handover", 1, &[]),
    case("O2", "relay.before_handover", 2, &["relay.before_handover"]),
    case("O3", "relay.after_handover", 1, &["relay.before_mark"]),
    case("O3", "relay.before_mark", 2, &[]),
    case("O3", "relay.after_mark", 1, &[]),
    Case { takes_over: true, ..case("O4", "relay.after_handover", 2, &[]) },
];

/// Messages that are sent at most until the armed process dies.
const SENT_MAX: usize = 6;

/// A local transaction with a message; its id, or `None` if the sender died first.
async fn order(peer: &mut Peer, world: &World, commit: bool) -> anyhow::Result<Option<String>> {
    let body = json!({ "to": world.bank.url("deliver"), "commit": commit });
    let Some((status, answer)) = peer.post("order", "", &body).await? else { return Ok(None) };
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(status == 200, "{status}: {answer}");
    Ok(Some(answer["id"].as_str().context("no id")?.to_owned()))
}

/// Every message of a committed transaction is delivered once, marked so, and no other is.
async fn verify(world: &World) -> anyhow::Result<()> {
    let mut connection = connect(&world.bank_url).await?;
    let sent: Vec<String> =
        sqlx::query_scalar("SELECT xid FROM effects WHERE operation = 'order' ORDER BY at")
            .fetch_all(&mut connection)
            .await?;
    ensure!(!sent.is_empty(), "nothing was sent");
    until("every message is delivered and marked", Duration::from_secs(40), async || {
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM unanimity_outbox WHERE state <> 'delivered'")
                .fetch_one(&mut connection)
                .await?;
        ensure!(open == 0, "{open} are not");
        Ok(())
    })
    .await?;
    for id in &sent {
        let effects = effects(&world.bank_url, id).await?;
        ensure!(effects == ["order", "deliver"], "{id}: {effects:?}");
    }
    let delivered: i64 = sqlx::query_scalar("SELECT count(*) FROM effects WHERE operation = 'deliver'")
        .fetch_one(&mut connection)
        .await?;
    ensure!(usize::try_from(delivered)? == sent.len(), "{delivered} deliveries of {} messages", sent.len());
    Ok(())
}

/// Dies at a point, comes back (and dies again), or another one takes over.
async fn run_case(case: &Case) -> anyhow::Result<()> {
    let Case { point, hit, again, takes_over, .. } = *case;
    let mut world = World::new("matrix-o").await?;
    world.start().await?;
    let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
    let mut peer = Peer::new(&world, &tm, "sender").await?;
    peer.start(Some((point, hit))).await?;
    for at in 0..SENT_MAX {
        // Every other one is rolled back.
        if order(&mut peer, &world, at % 2 == 0).await?.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    died(&mut peer.process, point, hit).await?;
    for point in again {
        peer.start(Some((point, 1))).await?;
        died(&mut peer.process, point, 1).await?;
    }
    let mut other = Peer::new(&world, &tm, "other-sender").await?;
    let alive = if takes_over { &mut other } else { &mut peer };
    alive.start(None).await?;
    // It works on: the next message goes behind those that the dead one left.
    ensure!(order(alive, &world, true).await?.is_some(), "it died again");
    verify(&world).await
}

async fn run(row: &str) {
    let cases: Vec<_> = CASES.iter().filter(|case| case.row == row).collect();
    assert!(!cases.is_empty(), "{row} has no cases");
    for case in cases {
        run_case(case).await.map_err(|error| format!("{case:?}: {error:#}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_what_was_committed_and_not_relayed_goes_after_a_restart() {
    run("O2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_what_was_relayed_and_not_marked_goes_again_with_the_same_id() {
    run("O3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o4_another_relay_takes_over_from_a_dead_one() {
    run("O4").await;
}
