//! The fence's conformance suite: the same for every database. K1 to K8 are the rows of the crash
//! matrix (reliability.md, section 6; K8: protocol.md).

use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use unanimity_proto::v1::Operation::{Cancel, Confirm};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_sdk::{BranchKey, Context, Fence, FenceError, Participant, TccHooks, TryError, Xid};

use crate::support::databases::{Guard, TestDatabase, fence};
use crate::support::fake::Fake;
use crate::support::stock::{Mood, Reserve, Take, stock, take};

/// A participant on a fresh database, attached to a fake coordinator.
pub(crate) struct World<DB: TestDatabase> {
    pub(crate) fake: Fake,
    pub(crate) fence: Fence<DB>,
    pub(crate) hooks: Reserve,
    pub(crate) participant: Participant<DB>,
    _guard: Guard,
}

impl<DB: TestDatabase> World<DB>
where
    Reserve: TccHooks<DB, Payload = Take, Output = i64>,
{
    pub(crate) async fn start(external: bool) -> Option<Self> {
        let Some((fence, guard)) = fence::<DB>().await else {
            eprintln!("SKIPPED: no server for this database on this machine");
            return None;
        };
        let fake = Fake::start().await;
        let hooks = Reserve::default();
        let builder = Participant::builder("inventory", fence.clone())
            .hook_timeout(Duration::from_secs(5))
            .concurrency(32);
        let builder = match external {
            true => builder.tcc_external("reserve", hooks.clone()),
            false => builder.tcc("reserve", hooks.clone()),
        };
        let participant = builder.attach(&fake.client()).await.unwrap();
        Some(Self { fake, fence, hooks, participant, _guard: guard })
    }

    pub(crate) async fn stock(&self) -> (i64, i64, i64) {
        stock(self.fence.pool()).await
    }

    async fn try_(&self, context: &Context, quantity: i64) -> Result<i64, TryError> {
        self.participant.try_in::<Reserve>(context, take(quantity)).await
    }
}

pub(crate) fn context() -> (Context, Xid) {
    let xid = Xid::new(uuid::Uuid::new_v4());
    (again(xid), xid)
}

/// The same call once more.
pub(crate) fn again(xid: Xid) -> Context {
    Context::from_header(&format!("{xid};call=c1;timeout=30000;log={}", crate::support::fake::LOG)).unwrap()
}

pub(crate) fn key() -> BranchKey {
    BranchKey::new("inventory/reserve#1@c1").unwrap()
}

macro_rules! conformance {
    ($($(#[$meta:meta])* async fn $name:ident($world:ident $(, external = $external:literal)?) $body:block)+) => {
        $($(#[$meta])* async fn $name<DB: TestDatabase>()
        where
            Reserve: TccHooks<DB, Payload = Take, Output = i64>,
        {
            let external = false $(|| $external)?;
            let Some($world) = World::<DB>::start(external).await else { return };
            $body
            $world.participant.shutdown().await;
        })+

        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Sqlite>().await; })+ }
        mod postgres { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Postgres>().await; })+ }
    };
}

conformance! {
    async fn k1_after_a_try_whose_answer_was_lost_it_is_confirmed_once(world) {
        let (context, xid) = context();
        world.try_(&context, 3).await.unwrap();
        assert_eq!(world.stock().await, (97, 3, 0));
        for _ in 0..3 {
            assert_eq!(world.fake.deliver(Confirm, xid, &key()).await.0, Outcome::Done);
        }
        assert_eq!(world.stock().await, (97, 0, 3));
        assert_eq!(world.hooks.counts(), (1, 1, 0));
    }

    async fn k1_after_a_try_whose_answer_was_lost_it_is_cancelled_once(world) {
        let (context, xid) = context();
        world.try_(&context, 3).await.unwrap();
        for _ in 0..3 {
            assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Done);
        }
        assert_eq!(world.stock().await, (100, 0, 0));
        assert_eq!(world.hooks.counts(), (1, 0, 1));
    }

    async fn k2_cancel_before_try_leaves_a_tombstone_and_succeeds(world) {
        let (_, xid) = context();
        assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Done);
        assert_eq!(world.hooks.counts(), (0, 0, 0));
        let rows = DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence WHERE state = 'tombstone'").await;
        assert_eq!(rows, 1);
    }

    async fn k3_a_late_try_after_the_tombstone_is_an_error_without_effect(world) {
        let (context, xid) = context();
        world.fake.deliver(Cancel, xid, &key()).await;
        for context in [context, again(xid)] {
            assert!(matches!(world.try_(&context, 3).await, Err(TryError::Cancelled)));
            assert_eq!(context.votes_header(), "", "a refused try must not vote");
        }
        assert_eq!(world.stock().await, (100, 0, 0));
        assert_eq!(world.hooks.counts(), (0, 0, 0));
    }

    async fn k3_a_try_after_a_cancelled_try_is_an_error(world) {
        let (context, xid) = context();
        world.try_(&context, 3).await.unwrap();
        world.fake.deliver(Cancel, xid, &key()).await;
        assert!(matches!(world.try_(&again(xid), 3).await, Err(TryError::Cancelled)));
        assert_eq!(world.stock().await, (100, 0, 0));
    }

    async fn k4_repeats_answer_as_the_first_time(world) {
        let (context, xid) = context();
        let first = world.try_(&context, 3).await.unwrap();
        assert_eq!(world.try_(&again(xid), 3).await.unwrap(), first);
        world.fake.deliver(Confirm, xid, &key()).await;
        let last = again(xid);
        assert_eq!(world.try_(&last, 3).await.unwrap(), first);
        assert!(!last.votes_header().is_empty(), "a repeated try votes again");
        assert_eq!(world.hooks.counts(), (1, 1, 0));
        assert_eq!(world.stock().await, (97, 0, 3));
    }

    async fn k5_fence_and_effect_are_there_together_or_not_at_all(world) {
        for mood in [Mood::Fails, Mood::Panics, Mood::Refuses] {
            let (context, xid) = context();
            world.hooks.set(mood);
            let error = world.try_(&context, 3).await.unwrap_err();
            match mood {
                Mood::Panics => assert!(matches!(&error, TryError::Panicked(text) if text.contains("had enough")), "{error:?}"),
                Mood::Refuses => assert!(error.is_refusal(), "{error:?}"),
                _ => assert!(matches!(error, TryError::Hook(_)), "{error:?}"),
            }
            assert_eq!(context.votes_header(), "");
            assert_eq!(world.stock().await, (100, 0, 0), "{mood:?}");
            assert_eq!(DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence").await, 0);
            world.hooks.set(Mood::Well);
            world.try_(&again(xid), 3).await.unwrap();
            world.hooks.set(mood);
            for (operation, expected) in [(Confirm, mood), (Confirm, mood), (Confirm, Mood::Well), (Cancel, Mood::Well)] {
                world.hooks.set(expected);
                let (outcome, text) = world.fake.deliver(operation, xid, &key()).await;
                match (operation, expected) {
                    (Cancel, _) => assert_eq!(outcome, Outcome::Refused),
                    (_, Mood::Well) => assert_eq!(outcome, Outcome::Done, "{text}"),
                    (_, Mood::Refuses) => assert_eq!((outcome, text.as_str()), (Outcome::Refused, "out of stock")),
                    _ => {
                        assert_eq!(outcome, Outcome::Unknown);
                        assert!(!text.is_empty());
                        assert_eq!(world.stock().await, (97, 3, 0), "{mood:?}");
                    }
                }
            }
            assert_eq!(world.stock().await, (97, 0, 3), "{mood:?}");
            DB::execute(world.fence.pool(), "UPDATE stock SET free = 100, sold = 0").await;
            DB::execute(world.fence.pool(), "DELETE FROM unanimity_fence").await;
        }
    }

    async fn k6_the_opposite_after_the_end_is_refused_and_raises_attention(world) {
        let (first, xid) = context();
        world.try_(&first, 3).await.unwrap();
        world.fake.deliver(Confirm, xid, &key()).await;
        assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Refused);
        assert_eq!(world.stock().await, (97, 0, 3));

        let (second, other) = context();
        world.try_(&second, 3).await.unwrap();
        world.fake.deliver(Cancel, other, &key()).await;
        assert_eq!(world.fake.deliver(Confirm, other, &key()).await.0, Outcome::Refused);
        let (_, tombstone) = context();
        world.fake.deliver(Cancel, tombstone, &key()).await;
        assert_eq!(world.fake.deliver(Confirm, tombstone, &key()).await.0, Outcome::Refused);
        assert_eq!(world.stock().await, (97, 0, 3));
        let health = world.participant.health().await.unwrap();
        assert_eq!(health.attention.iter().filter(|a| a.code == "contradiction").count(), 3);
        assert!(!health.is_well());
    }

    async fn k7_cancel_of_a_try_that_was_rolled_back_does_nothing(world) {
        let (context, xid) = context();
        world.hooks.set(Mood::Fails);
        world.try_(&context, 3).await.unwrap_err();
        world.hooks.set(Mood::Well);
        assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Done);
        assert_eq!(world.stock().await, (100, 0, 0));
        assert_eq!(world.hooks.counts().2, 0);
    }

    async fn k8_confirm_before_its_try_has_committed_is_not_yet(world) {
        let (context, xid) = context();
        for _ in 0..2 {
            assert_eq!(world.fake.deliver(Confirm, xid, &key()).await.0, Outcome::NotYet);
        }
        assert_eq!(DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence").await, 0, "no tombstone");
        world.try_(&context, 3).await.unwrap();
        assert_eq!(world.fake.deliver(Confirm, xid, &key()).await.0, Outcome::Done);
        assert_eq!(world.stock().await, (97, 0, 3));
    }

    async fn an_error_that_the_hook_swallowed_is_no_success(world) {
        let (context, xid) = context();
        world.hooks.set(Mood::Swallows);
        let tried = world.try_(&context, 3).await;
        let rows = DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence WHERE state = 'tried'").await;
        // PostgreSQL fails the whole transaction, SQLite only the statement: what counts is that
        // the answer says what is there.
        let there = i64::from(tried.is_ok());
        assert_eq!((rows, world.stock().await.1), (there, 3 * there), "{tried:?}");
        world.hooks.set(Mood::Well);
        world.try_(&again(xid), 3).await.unwrap();
        world.hooks.set(Mood::Swallows);
        let (outcome, _) = world.fake.deliver(Confirm, xid, &key()).await;
        let confirmed = world.stock().await == (97, 0, 3);
        assert_eq!(outcome == Outcome::Done, confirmed);
    }

    async fn a_hook_that_lost_its_local_transaction_is_no_success(world) {
        for (operation, after) in [(Confirm, (97, 0, 3)), (Cancel, (100, 0, 0))] {
            let (context, xid) = context();
            world.hooks.set(Mood::RollsBack);
            let error = world.try_(&context, 3).await.unwrap_err();
            assert!(matches!(error, TryError::Fence(FenceError::TransactionLost)), "{error:?}");
            assert_eq!(context.votes_header(), "");
            world.hooks.set(Mood::Well);
            world.try_(&again(xid), 3).await.unwrap();
            world.hooks.set(Mood::RollsBack);
            for _ in 0..2 {
                let (outcome, text) = world.fake.deliver(operation, xid, &key()).await;
                assert_eq!(outcome, Outcome::Unknown, "{text}");
                assert_eq!(world.stock().await, (97, 3, 0), "{operation:?}");
            }
            world.hooks.set(Mood::Well);
            // More often than the pool has connections: none of them was spoiled.
            for _ in 0..10 {
                let (outcome, text) = world.fake.deliver(operation, xid, &key()).await;
                assert_eq!(outcome, Outcome::Done, "{text}");
            }
            assert_eq!(world.stock().await, after);
            DB::execute(world.fence.pool(), "UPDATE stock SET free = 100, held = 0, sold = 0").await;
        }
    }

    async fn a_hook_that_lost_its_local_transaction_is_no_success_in_the_external_form(world, external = true) {
        let (context, xid) = context();
        world.hooks.set(Mood::RollsBack);
        world.try_(&context, 3).await.unwrap_err();
        assert_eq!(world.stock().await, (100, 0, 0));
        let rows = DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence WHERE state = 'trying'").await;
        assert_eq!(rows, 1);
        world.hooks.set(Mood::Well);
        world.try_(&again(xid), 3).await.unwrap();
        assert_eq!(world.stock().await, (97, 3, 0));
    }

    async fn thirty_two_concurrent_cancels_do_not_deadlock(world) {
        let (context, xid) = context();
        world.try_(&context, 3).await.unwrap();
        let (_, unknown) = self::context();
        let started = std::time::Instant::now();
        let cancels = (0..64).map(|n| {
            let fake = world.fake.clone();
            tokio::spawn(async move { fake.deliver(Cancel, if n % 2 == 0 { xid } else { unknown }, &key()).await.0 })
        });
        let outcomes = futures::future::join_all(cancels).await;
        let done = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Outcome::Done))).count();
        assert!(done >= 60, "{done} of 64 done: the rest may only be out of time");
        assert_eq!(world.hooks.counts().2, 1);
        assert_eq!(world.stock().await, (100, 0, 0));
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    async fn a_cancel_that_meets_an_open_try_waits_and_then_answers_unknown(world) {
        let (context, xid) = context();
        world.hooks.set(Mood::Slow(Duration::from_secs(2)));
        let participant = world.participant.clone();
        let trying = tokio::spawn(async move { participant.try_in::<Reserve>(&context, take(3)).await });
        crate::support::eventually("the hook runs", async || world.hooks.counts().0 == 1).await;
        let (outcome, _) = world.fake.deliver(Cancel, xid, &key()).await;
        // PostgreSQL: lock_timeout of 500 ms. SQLite waits for the write lock for 5 s and gets it.
        assert!(matches!(outcome, Outcome::Unknown | Outcome::Done));
        trying.await.unwrap().unwrap();
        world.hooks.set(Mood::Well);
        assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Done);
        assert_eq!(world.stock().await, (100, 0, 0));
        assert_eq!(world.hooks.counts().2, 1);
    }

    async fn a_key_with_another_payload_is_refused(world) {
        let (context, xid) = context();
        world.try_(&context, 3).await.unwrap();
        // The fake coordinator would refuse it as the real one does; here it forgets.
        world.fake.with(|state| state.registered.clear());
        assert!(matches!(world.try_(&again(xid), 4).await, Err(TryError::KeyReused)));
        assert_eq!(world.stock().await, (97, 3, 0));
    }

    async fn an_external_try_commits_its_row_first(world, external = true) {
        let (context, xid) = context();
        world.hooks.set(Mood::Fails);
        world.try_(&context, 3).await.unwrap_err();
        let rows = DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence WHERE state = 'trying'").await;
        assert_eq!(rows, 1, "the row stays, so that cancel comes");
        assert_eq!(world.fake.deliver(Confirm, xid, &key()).await.0, Outcome::NotYet);
        world.hooks.set(Mood::Well);
        world.try_(&again(xid), 3).await.unwrap();
        world.fake.deliver(Confirm, xid, &key()).await;
        assert_eq!(world.stock().await, (97, 0, 3));

        let (context, xid) = self::context();
        world.hooks.set(Mood::Fails);
        world.try_(&context, 3).await.unwrap_err();
        world.hooks.set(Mood::Well);
        assert_eq!(world.fake.deliver(Cancel, xid, &key()).await.0, Outcome::Done);
        assert_eq!(world.hooks.counts().2, 1, "cancel runs although the try did not end");
        assert!(matches!(world.try_(&again(xid), 3).await, Err(TryError::Cancelled)));
    }

    async fn the_database_is_found_durable(world) {
        assert_eq!(world.fence.check_durability().await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_full_disk_spoils_no_connection() {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("x.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("max_page_count", "1000");
    // The only connection: whatever happens to it, it must work or be replaced.
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let fence = Fence::new(pool.clone());
    fence.migrate().await.unwrap();
    Sqlite::execute(&pool, "CREATE TABLE stock (free BIGINT, held BIGINT, sold BIGINT)").await;
    Sqlite::execute(&pool, "INSERT INTO stock VALUES (100, 0, 0)").await;
    Sqlite::execute(&pool, "CREATE TABLE ballast (bytes BLOB)").await;
    let (fake, hooks) = (Fake::start().await, Reserve::default());
    let builder = Participant::builder("inventory", fence).tcc("reserve", hooks.clone());
    let participant = builder.attach(&fake.client()).await.unwrap();

    let (context, xid) = context();
    hooks.set(Mood::Fills);
    let error = participant.try_in::<Reserve>(&context, take(3)).await.unwrap_err();
    assert!(matches!(&error, TryError::Hook(error) if error.to_string().contains("full")), "{error:?}");
    hooks.set(Mood::Well);
    participant.try_in::<Reserve>(&again(xid), take(3)).await.unwrap();
    hooks.set(Mood::Fills);
    assert_eq!(fake.deliver(Confirm, xid, &key()).await.0, Outcome::Unknown);
    hooks.set(Mood::Well);
    let (outcome, text) = fake.deliver(Confirm, xid, &key()).await;
    assert_eq!(outcome, Outcome::Done, "{text}");
    assert_eq!(stock(&pool).await, (97, 0, 3));
    participant.shutdown().await;
}

#[tokio::test]
async fn m13_settings_that_lose_tries_are_found_in_sqlite() {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("x.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::ZERO);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let found = Fence::new(pool).check_durability().await.unwrap();
    let settings: Vec<_> = found.iter().map(|f| (f.setting, f.loses_data)).collect();
    assert_eq!(settings, [("synchronous", true), ("busy_timeout", false)]);
}

#[tokio::test]
async fn m13_settings_that_lose_tries_are_found_in_postgres() {
    let Some((pool, _guard)) = Postgres::fresh().await else { return };
    let options = (*pool.connect_options()).clone().options([("synchronous_commit", "off")]);
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let found = Fence::new(pool).check_durability().await.unwrap();
    assert_eq!(
        found.iter().map(|f| (f.setting, f.loses_data)).collect::<Vec<_>>(),
        [("synchronous_commit", true)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_migrate_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.db");
    let migrations = (0..8).map(|_| {
        let path = path.clone();
        tokio::spawn(async move {
            let fence = Fence::new(unanimity_sdk::sqlite_pool(path).await?);
            fence.migrate().await
        })
    });
    for result in futures::future::join_all(migrations).await {
        result.unwrap().unwrap();
    }
    let Some((pool, _guard)) = Postgres::fresh().await else { return };
    let fences: Vec<_> = (0..8).map(|_| Fence::new(pool.clone())).collect();
    for result in futures::future::join_all(fences.iter().map(Fence::migrate)).await {
        result.unwrap();
    }
}
