//! The outbox's rules, one by one, the same for every database.

use std::time::Duration;

use sqlx::{MySql, Pool, Postgres, Sqlite};
use unanimity_sdk::{
    DeathCause, Message, MessageStatus, MessageTarget, Outbox, OutboxError, Relay, ReplayError, Xid,
};

use super::coordinator::{FakeCoordinator, Faults};
use super::databases::{OutboxTest, outbox};
use crate::support::databases::Guard;
use crate::support::eventually;

/// Long enough for a busy machine to renew it, short enough to wait for its end.
pub(super) const LEASE: Duration = Duration::from_millis(600);

pub(super) fn message(key: Option<&str>, payload: &str) -> Message {
    let message = Message::new("order-placed")
        .bytes(payload.to_owned())
        .to(MessageTarget::participant("mail", "welcome").unwrap());
    match key {
        Some(key) => message.key(key).unwrap(),
        None => message,
    }
}

pub(super) fn relay<DB: OutboxTest>(outbox: &Outbox<DB>, fake: &FakeCoordinator) -> Relay<DB> {
    Relay::builder(outbox, fake.clone())
        .lease(LEASE)
        .poll(Duration::from_millis(50))
        .check_every(Duration::from_millis(40))
        .retry_cap(Duration::from_millis(40))
        .call_timeout(Duration::from_secs(2))
        .start()
}

struct World<DB: OutboxTest> {
    outbox: Outbox<DB>,
    fake: FakeCoordinator,
    _guard: Guard,
}

impl<DB: OutboxTest> World<DB> {
    async fn start() -> Option<Self> {
        let (outbox, guard) = outbox::<DB>().await?;
        Some(Self { outbox, fake: FakeCoordinator::new(1), _guard: guard })
    }

    fn relay(&self) -> Relay<DB> {
        relay(&self.outbox, &self.fake)
    }

    fn pool(&self) -> &Pool<DB> {
        self.outbox.pool()
    }

    /// Sends in a transaction of its own that commits.
    async fn send(&self, key: Option<&str>, payload: &str) -> Xid {
        let mut tx = DB::writing(self.pool()).await;
        let id = self.outbox.send(&mut tx, &message(key, payload)).await.unwrap();
        tx.commit().await.unwrap();
        self.outbox.wake();
        id
    }

    async fn rows(&self, condition: &str) -> i64 {
        DB::number(self.pool(), &format!("SELECT count(*) FROM unanimity_outbox WHERE {condition}")).await
    }

    async fn all_delivered(&self) {
        eventually("every row is delivered", async || self.rows("state <> 'delivered'").await == 0).await;
        self.fake.check();
    }

    fn payloads(&self) -> Vec<String> {
        self.fake.delivered().into_iter().map(|(_, _, payload)| payload).collect()
    }
}

async fn o1_a_rolled_back_transaction_sends_nothing<DB: OutboxTest>(world: World<DB>) {
    let relay = world.relay();
    let mut tx = DB::writing(world.pool()).await;
    DB::execute(&mut tx, "INSERT INTO business VALUES ('a', 1)").await;
    world.outbox.send(&mut tx, &message(Some("a"), "never")).await.unwrap();
    tx.rollback().await.unwrap();
    world.outbox.wake();
    let sent = world.send(Some("a"), "after").await;
    world.all_delivered().await;
    assert_eq!(world.fake.messages(), 1);
    assert_eq!(world.payloads(), ["after"]);
    assert_eq!(world.fake.arrivals(sent), 1);
    relay.shutdown().await;
}

async fn o2_what_committed_with_no_relay_goes_when_one_starts<DB: OutboxTest>(world: World<DB>) {
    for n in 0..5 {
        world.send(Some("a"), &n.to_string()).await;
        world.send(None, "keyless").await;
    }
    let relay = world.relay();
    world.all_delivered().await;
    let mut keyed = world.payloads();
    keyed.retain(|payload| payload != "keyless");
    assert_eq!(keyed, ["0", "1", "2", "3", "4"]);
    relay.shutdown().await;
}

async fn o2_a_relay_without_a_wake_looks_by_itself<DB: OutboxTest>(world: World<DB>) {
    let relay = world.relay();
    // Another outbox of the same database: its bell is not the relay's.
    let elsewhere = Outbox::new(DB::again(world.pool()).await);
    let mut tx = DB::writing(elsewhere.pool()).await;
    elsewhere.send(&mut tx, &message(None, "x")).await.unwrap();
    tx.commit().await.unwrap();
    eventually("delivered", async || world.fake.delivered().len() == 1).await;
    relay.shutdown().await;
}

async fn o3_handed_over_and_not_marked_is_a_duplicate_with_the_same_id<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { unanswered: 100, ..Faults::default() });
    let id = world.send(Some("a"), "1").await;
    world.send(Some("a"), "2").await;
    let first = world.relay();
    eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    first.shutdown().await;
    assert_eq!(world.rows("state = 'handed'").await, 1, "the second waits for the first");
    world.fake.set(Faults::default());
    let before = world.fake.arrivals(id);
    let second = world.relay();
    world.all_delivered().await;
    assert!(world.fake.arrivals(id) > before, "handed over again");
    assert_eq!(world.payloads(), ["1", "2"]);
    second.shutdown().await;
}

async fn o3_a_refusal_after_an_unknown_answer_condemns_nothing<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { unanswered: 100, ..Faults::default() });
    let id = world.send(Some("a"), "1").await;
    let relay = world.relay();
    eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    world.fake.set(Faults { refuses: true, ..Faults::default() });
    world.all_delivered().await;
    relay.shutdown().await;
}

async fn o3_what_was_forgotten_counts_as_delivered<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { holds: true, ..Faults::default() });
    let id = world.send(None, "1").await;
    let relay = world.relay();
    eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    world.fake.set_status(id, MessageStatus::Forgotten);
    world.all_delivered().await;
    relay.shutdown().await;
}

async fn o4_a_relay_that_lost_its_lease_changes_nothing<DB: OutboxTest>(world: World<DB>) {
    world.fake.close_gate();
    let id = world.send(Some("a"), "1").await;
    let relay = world.relay();
    eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    // Another relay takes all shards, as after a pause of ours.
    let mut connection = world.pool().acquire().await.unwrap();
    let far = "epoch + 1, owner = 'another', until_ms = 9000000000000";
    DB::execute(&mut connection, &format!("UPDATE unanimity_outbox_shards SET epoch = {far}")).await;
    drop(connection);
    let epoch = DB::number(world.pool(), "SELECT max(epoch) FROM unanimity_outbox").await;
    world.fake.set_status(id, MessageStatus::Delivered);
    world.fake.open_gate();
    // The stale relay learns that it is delivered, and may not write it.
    let second = world.send(Some("a"), "2").await;
    tokio::time::sleep(LEASE).await;
    assert_eq!(world.rows("state = 'handed'").await, 1);
    assert_eq!(world.rows("state = 'pending'").await, 1);
    assert_eq!(world.fake.arrivals(second), 0);
    assert_eq!(DB::number(world.pool(), "SELECT max(epoch) FROM unanimity_outbox").await, epoch);
    // The other one dies; the shards are free again.
    let mut connection = world.pool().acquire().await.unwrap();
    DB::execute(&mut connection, "UPDATE unanimity_outbox_shards SET until_ms = 0").await;
    drop(connection);
    world.all_delivered().await;
    assert!(DB::number(world.pool(), "SELECT min(epoch) FROM unanimity_outbox").await > epoch + 1);
    relay.shutdown().await;
}

async fn o4_two_relays_share_the_shards_and_keep_the_order<DB: OutboxTest>(world: World<DB>) {
    let elsewhere = Outbox::new(DB::again(world.pool()).await);
    let relays = [relay(&world.outbox, &world.fake), relay(&elsewhere, &world.fake)];
    eventually("each has its half", async || {
        let held = "SELECT count(*) FROM unanimity_outbox_shards WHERE owner <> ''";
        let owners = "SELECT count(DISTINCT owner) FROM unanimity_outbox_shards WHERE owner <> ''";
        let most = "SELECT max(c) FROM (SELECT count(*) AS c FROM unanimity_outbox_shards GROUP BY owner) x";
        DB::number(world.pool(), held).await == 16
            && DB::number(world.pool(), owners).await == 2
            && DB::number(world.pool(), most).await == 8
    })
    .await;
    for n in 0..8 {
        for key in ["a", "b", "c", "d", "e", "f"] {
            world.send(Some(key), &n.to_string()).await;
        }
    }
    world.all_delivered().await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(of_key(&world.fake, key), (0..8).map(|n| n.to_string()).collect::<Vec<_>>(), "{key}");
    }
    for relay in relays {
        relay.shutdown().await;
    }
    assert_eq!(DB::number(world.pool(), "SELECT count(*) FROM unanimity_outbox_relays").await, 0);
    assert_eq!(
        DB::number(world.pool(), "SELECT count(*) FROM unanimity_outbox_shards WHERE owner <> ''").await,
        0,
        "handed over at once"
    );
}

async fn o4_a_relay_frozen_inside_of_a_transaction_keeps_no_other_shard<DB: OutboxTest>(world: World<DB>) {
    if !DB::WRITERS_SIDE_BY_SIDE {
        // It keeps every writer from SQLite, us included: nothing can be shown.
        return;
    }
    let mut frozen = DB::writing(world.pool()).await;
    let lock = "SELECT CAST(shard AS SIGNED) FROM unanimity_outbox_shards WHERE shard = 3 FOR UPDATE";
    let lock = if DB::NAME == "PostgreSQL" { lock.replace("SIGNED", "bigint") } else { lock.to_owned() };
    assert_eq!(DB::number_in(&mut frozen, &lock).await, 3);
    let relay = world.relay();
    for round in 0..4 {
        for n in 0..40 {
            world.send(Some(&format!("{round}-{n}")), "x").await;
        }
        eventually("the other shards' go", async || {
            world.rows("shard <> 3 AND state <> 'delivered'").await == 0
        })
        .await;
        // Together longer than the lease: it is renewed.
        tokio::time::sleep(LEASE / 2).await;
    }
    assert!(world.rows("shard = 3 AND state = 'pending'").await > 0);
    assert_eq!(DB::number(world.pool(), "SELECT max(epoch) FROM unanimity_outbox_shards").await, 1);
    frozen.rollback().await.unwrap();
    world.all_delivered().await;
    relay.shutdown().await;
}

pub(super) fn of_key(fake: &FakeCoordinator, key: &str) -> Vec<String> {
    let of_key =
        |(_, k, payload): (Xid, Option<String>, String)| (k.as_deref() == Some(key)).then_some(payload);
    fake.delivered().into_iter().filter_map(of_key).collect()
}

async fn h13_a_lower_number_that_commits_late_is_not_skipped<DB: OutboxTest>(world: World<DB>) {
    if !DB::WRITERS_SIDE_BY_SIDE {
        // One writer at a time: numbers are in the order of the commits.
        return;
    }
    let relay = world.relay();
    let mut late = DB::writing(world.pool()).await;
    let low = world.outbox.send(&mut late, &message(Some("a"), "low")).await.unwrap();
    let low_keyless = world.outbox.send(&mut late, &message(None, "low keyless")).await.unwrap();
    world.send(Some("a"), "high").await;
    world.send(None, "high keyless").await;
    // Many at once: a relay that changes rows must not wait for those that are not committed.
    let mut many = DB::writing(world.pool()).await;
    for n in 0..40 {
        world.outbox.send(&mut many, &message(None, &n.to_string())).await.unwrap();
    }
    many.commit().await.unwrap();
    world.outbox.wake();
    eventually("the higher are delivered", async || {
        world.fake.delivered().len() == 42 && world.rows("state = 'delivered'").await == 42
    })
    .await;
    assert_eq!(world.fake.arrivals(low) + world.fake.arrivals(low_keyless), 0);
    late.commit().await.unwrap();
    world.outbox.wake();
    eventually("the lower as well", async || world.fake.delivered().len() == 44).await;
    world.all_delivered().await;
    relay.shutdown().await;
}

async fn h13_the_next_of_a_key_waits_until_the_one_before_is_delivered<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { holds: true, ..Faults::default() });
    let first = world.send(Some("a"), "1").await;
    let second = world.send(Some("a"), "2").await;
    // Keys that a collation would call the same are others.
    let other = world.send(Some("A"), "3").await;
    let spaced = world.send(Some("a "), "4").await;
    let relay = world.relay();
    for id in [first, other, spaced] {
        eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.fake.arrivals(second), 0);
    world.fake.set_status(first, MessageStatus::Delivered);
    eventually("the second goes", async || world.fake.arrivals(second) > 0).await;
    world.fake.set(Faults::default());
    world.all_delivered().await;
    relay.shutdown().await;
}

async fn h13_a_parked_message_is_a_dead_letter_and_a_replay_brings_it_back<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { holds: true, ..Faults::default() });
    let first = world.send(Some("a"), "1").await;
    let second = world.send(Some("a"), "2").await;
    let relay = world.relay();
    eventually("it arrived", async || world.fake.arrivals(first) > 0).await;
    assert!(matches!(relay.replay(first).await, Err(ReplayError::NotDead)));
    world.fake.set_status(first, MessageStatus::Parked);
    eventually("the next goes", async || world.fake.arrivals(second) > 0).await;
    let dead = relay.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].id, dead[0].cause, dead[0].key.as_deref()), (first, DeathCause::Parked, Some("a")));
    assert_eq!(relay.stats().await.unwrap().dead, 1);
    world.fake.set(Faults { dead: true, ..Faults::default() });
    assert!(matches!(relay.replay(first).await, Err(ReplayError::Handover(_))));
    assert_eq!(relay.stats().await.unwrap().dead, 1, "as it was");
    world.fake.set(Faults::default());
    relay.replay(first).await.unwrap();
    world.all_delivered().await;
    assert_eq!(world.fake.status_of(first), Some(MessageStatus::Delivered));
    assert!(matches!(relay.replay(first).await, Err(ReplayError::NotDead)));
    let nobody = Xid::new(uuid::Uuid::from_u128(1));
    assert!(matches!(relay.replay(nobody).await, Err(ReplayError::NotFound)));
    relay.shutdown().await;
}

async fn a_message_that_can_never_be_delivered_is_dead_at_once_with_the_reason<DB: OutboxTest>(
    world: World<DB>,
) {
    world.fake.set(Faults { refuses: true, ..Faults::default() });
    let id = world.send(Some("a"), "1").await;
    let relay = world.relay();
    eventually("it is dead", async || world.rows("state = 'dead'").await == 1).await;
    let dead = relay.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead[0].id, dead[0].cause), (id, DeathCause::Refused));
    assert!(dead[0].reason.contains("target_not_allowed"), "{}", dead[0].reason);
    assert_eq!(world.fake.arrivals(id), 1, "not tried again");
    // Somebody puts the target on the allow list.
    world.fake.set(Faults::default());
    world.send(Some("a"), "2").await;
    relay.replay(id).await.unwrap();
    world.all_delivered().await;
    relay.shutdown().await;
}

async fn a_row_that_cannot_be_read_is_dead_and_blocks_nobody<DB: OutboxTest>(world: World<DB>) {
    world.send(Some("a"), "1").await;
    world.send(Some("a"), "2").await;
    let mut connection = world.pool().acquire().await.unwrap();
    DB::execute(&mut connection, "UPDATE unanimity_outbox SET plan = 'from the future' WHERE n = 1").await;
    drop(connection);
    let relay = world.relay();
    eventually("the other is delivered", async || world.payloads() == ["2"]).await;
    assert_eq!(relay.dead_letters(0, 10).await.unwrap()[0].cause, DeathCause::Refused);
    relay.shutdown().await;
}

async fn an_aborted_message_is_dead_and_cannot_be_replayed<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { holds: true, ..Faults::default() });
    let id = world.send(None, "1").await;
    let relay = world.relay();
    eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    world.fake.set_status(id, MessageStatus::Aborted);
    eventually("it is dead", async || world.rows("cause = 'aborted'").await == 1).await;
    assert!(matches!(relay.replay(id).await, Err(ReplayError::Aborted)));
    relay.shutdown().await;
}

async fn h13_the_order_holds_where_more_is_with_the_coordinator_than_is_read_at_once<DB: OutboxTest>(
    world: World<DB>,
) {
    for n in 0..8 {
        world.send(Some(&format!("key-{n}")), "first").await;
    }
    world.send(Some("key-7"), "second").await;
    // A relay before this one, with a larger limit, had handed the first of each key over.
    let mut tx = DB::writing(world.pool()).await;
    DB::execute(&mut tx, "UPDATE unanimity_outbox SET shard = 0").await;
    DB::execute(
        &mut tx,
        "UPDATE unanimity_outbox SET state = 'handed'
         WHERE n < (SELECT m FROM (SELECT max(n) AS m FROM unanimity_outbox) AS highest)",
    )
    .await;
    tx.commit().await.unwrap();
    let relay = Relay::builder(&world.outbox, world.fake.clone())
        .lease(LEASE)
        .poll(Duration::from_secs(1))
        .check_every(Duration::from_millis(40))
        .open_max(1)
        .start();
    world.all_delivered().await;
    let mut of_key = world.fake.delivered();
    of_key.retain(|(_, key, _)| key.as_deref() == Some("key-7"));
    let payloads: Vec<_> = of_key.iter().map(|(.., payload)| payload.as_str()).collect();
    assert_eq!(payloads, ["first", "second"]);
    relay.shutdown().await;
}

async fn one_stuck_key_does_not_keep_others_waiting<DB: OutboxTest>(world: World<DB>) {
    world.fake.set(Faults { holds: true, ..Faults::default() });
    for n in 0..20 {
        world.send(Some("stuck"), &n.to_string()).await;
    }
    let relay = world.relay();
    eventually("it is under way", async || world.fake.messages() == 1).await;
    let mut others = Vec::new();
    for n in 0..20 {
        others.push(world.send(Some(&format!("free-{n}")), "x").await);
        others.push(world.send(None, "x").await);
    }
    for id in others {
        eventually("it arrived", async || world.fake.arrivals(id) > 0).await;
    }
    let stats = relay.stats().await.unwrap();
    assert_eq!((stats.pending, stats.handed, stats.dead), (19, 41, 0));
    assert!(stats.oldest_pending_age.is_some());
    world.fake.set(Faults::default());
    world.all_delivered().await;
    assert_eq!(relay.stats().await.unwrap(), Default::default());
    relay.shutdown().await;
}

async fn delivered_rows_are_deleted_after_their_time<DB: OutboxTest>(world: World<DB>) {
    for n in 0..20 {
        world.send(None, &n.to_string()).await;
    }
    let relay = Relay::builder(&world.outbox, world.fake.clone())
        .poll(Duration::from_millis(20))
        .retention(Duration::from_millis(1))
        .start();
    eventually("no row is left", async || world.rows("n > 0").await == 0).await;
    assert_eq!(world.fake.delivered().len(), 20);
    relay.shutdown().await;
}

async fn a_message_that_would_be_refused_is_refused_at_the_send<DB: OutboxTest>(world: World<DB>) {
    let mut tx = DB::writing(world.pool()).await;
    let nobody = Message::new("m");
    assert!(matches!(world.outbox.send(&mut tx, &nobody).await, Err(OutboxError::NoReceiver)));
    let large = message(None, &"x".repeat(1024 * 1024 + 1));
    assert!(matches!(world.outbox.send(&mut tx, &large).await, Err(OutboxError::Invalid { .. })));
    // The transaction is as it was.
    world.outbox.send(&mut tx, &message(None, &"x".repeat(1024 * 1024))).await.unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    world.all_delivered().await;
    relay.shutdown().await;
}

macro_rules! on_every_database {
    ($($name:ident),+ $(,)?) => {
        on_every_database!(@ sqlite, Sqlite, $($name),+);
        on_every_database!(@ postgres, Postgres, $($name),+);
        on_every_database!(@ mariadb, MySql, $($name),+);
    };
    (@ $module:ident, $db:ty, $($name:ident),+) => {
        mod $module {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(world) = World::<$db>::start().await {
                    super::$name(world).await;
                }
            })+
        }
    };
}

on_every_database!(
    o1_a_rolled_back_transaction_sends_nothing,
    o2_what_committed_with_no_relay_goes_when_one_starts,
    o2_a_relay_without_a_wake_looks_by_itself,
    o3_handed_over_and_not_marked_is_a_duplicate_with_the_same_id,
    o3_a_refusal_after_an_unknown_answer_condemns_nothing,
    o3_what_was_forgotten_counts_as_delivered,
    o4_a_relay_that_lost_its_lease_changes_nothing,
    o4_two_relays_share_the_shards_and_keep_the_order,
    o4_a_relay_frozen_inside_of_a_transaction_keeps_no_other_shard,
    h13_a_lower_number_that_commits_late_is_not_skipped,
    h13_the_next_of_a_key_waits_until_the_one_before_is_delivered,
    h13_a_parked_message_is_a_dead_letter_and_a_replay_brings_it_back,
    h13_the_order_holds_where_more_is_with_the_coordinator_than_is_read_at_once,
    a_message_that_can_never_be_delivered_is_dead_at_once_with_the_reason,
    a_row_that_cannot_be_read_is_dead_and_blocks_nobody,
    an_aborted_message_is_dead_and_cannot_be_replayed,
    one_stuck_key_does_not_keep_others_waiting,
    delivered_rows_are_deleted_after_their_time,
    a_message_that_would_be_refused_is_refused_at_the_send,
);
