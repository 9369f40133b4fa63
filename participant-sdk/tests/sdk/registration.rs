//! The registration of a branch and the local transaction of its try: beside each other in PostgreSQL,
//! one after the other in SQLite. Whatever overtakes what, nobody sees a try that the coordinator has not
//! acknowledged (protocol C3), and a branch that is told its end has one.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use unanimity_proto::v1::Operation::{Cancel, Confirm};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_sdk::{BranchOptions, Context, TccHooks, TryError, Xid};

use crate::fence::{World, context, key};
use crate::support::databases::TestDatabase;
use crate::support::eventually;
use crate::support::stock::{Mood, Reserve, Take, take};

/// A try whose registration the coordinator has done and not yet answered.
struct Held<DB: TestDatabase> {
    world: World<DB>,
    gate: Arc<Semaphore>,
    context: Context,
    xid: Xid,
    trying: JoinHandle<Result<i64, TryError>>,
}

impl<DB: TestDatabase> Held<DB>
where
    Reserve: TccHooks<DB, Payload = Take, Output = i64>,
{
    async fn start(mood: Mood, refuse: bool, options: BranchOptions, runs_beside: bool) -> Option<Self> {
        let world = World::<DB>::start(false).await?;
        let gate = Arc::new(Semaphore::new(0));
        world.hooks.set(mood);
        world.fake.with(|state| {
            state.hold_registrations = Some(Arc::clone(&gate));
            state.refuse_registrations = refuse;
        });
        let (context, xid) = context();
        let (participant, inside) = (world.participant.clone(), context.clone());
        let trying =
            tokio::spawn(async move { participant.try_in_with::<Reserve>(&inside, options, take(3)).await });
        if runs_beside {
            eventually("the hook runs", async || world.hooks.counts().0 > 0).await;
        }
        if !refuse {
            let registered = async || world.fake.with(|state| state.registered.len() == 1);
            eventually("the coordinator has the branch", registered).await;
        }
        Some(Self { world, gate, context, xid, trying })
    }

    async fn rows(&self) -> i64 {
        DB::number(self.world.fence.pool(), "SELECT count(*) FROM unanimity_fence").await
    }

    async fn nothing_is_seen(&self) {
        // As long as it likes: what must not happen may need a moment.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((self.world.stock().await, self.rows().await), ((100, 0, 0), 0));
        assert!(!self.trying.is_finished());
        assert_eq!(self.context.votes_header(), "");
    }

    fn answer(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

macro_rules! for_each_database {
    ($(async fn $name:ident($beside:ident) $body:block)+) => {
        $(async fn $name<DB: TestDatabase>($beside: bool)
        where
            Reserve: TccHooks<DB, Payload = Take, Output = i64>,
        $body)+

        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Sqlite>(false).await; })+ }
        mod postgres { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<super::Postgres>(true).await; })+ }
    };
}

for_each_database! {
    async fn c3_a_try_is_seen_only_when_its_registration_is_acknowledged(beside) {
        let options = BranchOptions::new();
        let Some(mut held) = Held::<DB>::start(Mood::Well, false, options, beside).await else { return };
        held.nothing_is_seen().await;
        assert_eq!(held.world.hooks.counts().0 > 0, beside, "SQLite has one writer: it must not wait");
        held.answer();
        (&mut held.trying).await.unwrap().unwrap();
        assert_eq!(held.world.stock().await, (97, 3, 0));
        assert!(!held.context.votes_header().is_empty());
        // What the registration's answer brought is in the row (protocol H6).
        let known = "SELECT count(*) FROM unanimity_fence WHERE state = 'tried' AND witness_seq > 0 AND log_id IS NOT NULL";
        assert_eq!(DB::number(held.world.fence.pool(), known).await, 1);
        assert_eq!(held.world.fake.deliver(Confirm, held.xid, &key()).await.0, Outcome::Done);
        assert_eq!(held.world.stock().await, (97, 0, 3));
    }

    async fn c3_a_refused_registration_rolls_the_try_back(beside) {
        let options = BranchOptions::new();
        let Some(mut held) = Held::<DB>::start(Mood::Well, true, options, beside).await else { return };
        held.nothing_is_seen().await;
        held.answer();
        let error = (&mut held.trying).await.unwrap().unwrap_err();
        assert!(matches!(error, TryError::Registration(_)), "{error:?}");
        assert_eq!((held.world.stock().await, held.rows().await), ((100, 0, 0), 0));
        assert_eq!(held.context.votes_header(), "");
        // K7: nothing of it is left for a cancel.
        assert_eq!(held.world.fake.deliver(Cancel, held.xid, &key()).await.0, Outcome::Done);
        assert_eq!((held.world.stock().await, held.world.hooks.counts().2), ((100, 0, 0), 0));
    }

    async fn k3_a_cancel_that_overtakes_the_acknowledgement_ends_the_try(beside) {
        let options = BranchOptions::new();
        let Some(mut held) = Held::<DB>::start(Mood::Well, false, options, beside).await else { return };
        let cancelled = async || held.world.fake.deliver(Cancel, held.xid, &key()).await.0 == Outcome::Done;
        eventually("the cancel is done", cancelled).await;
        held.answer();
        let error = (&mut held.trying).await.unwrap().unwrap_err();
        assert!(matches!(error, TryError::Cancelled), "{error:?}");
        assert_eq!((held.world.stock().await, held.world.hooks.counts().2), ((100, 0, 0), 0));
        assert_eq!(held.context.votes_header(), "");
    }

    async fn k8_a_confirm_that_overtakes_the_acknowledgement_is_not_yet(beside) {
        let options = BranchOptions::new();
        let Some(mut held) = Held::<DB>::start(Mood::Well, false, options, beside).await else { return };
        assert_eq!(held.world.fake.deliver(Confirm, held.xid, &key()).await.0, Outcome::NotYet);
        held.answer();
        (&mut held.trying).await.unwrap().unwrap();
        assert_eq!(held.world.fake.deliver(Confirm, held.xid, &key()).await.0, Outcome::Done);
        assert_eq!(held.world.stock().await, (97, 0, 3));
    }

    async fn c3_a_dropped_future_ends_in_the_same_order(beside) {
        let options = BranchOptions::new();
        let Some(mut held) = Held::<DB>::start(Mood::Well, false, options, beside).await else { return };
        held.trying.abort();
        assert!((&mut held.trying).await.unwrap_err().is_cancelled());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((held.world.stock().await, held.rows().await), ((100, 0, 0), 0));
        held.answer();
        eventually("the try is there", async || held.rows().await == 1).await;
        assert_eq!(held.world.stock().await, (97, 3, 0));
    }

    async fn h1_a_try_that_failed_answers_after_its_registration(beside) {
        for mood in [Mood::Fails, Mood::Refuses, Mood::Panics, Mood::RollsBack] {
            let options = BranchOptions::new();
            let Some(mut held) = Held::<DB>::start(mood, false, options, beside).await else { return };
            // Else its registration could come after the decision of a manager that ignores the error,
            // which would commit without the branch instead of finding its vote missing.
            held.nothing_is_seen().await;
            held.answer();
            let error = (&mut held.trying).await.unwrap().unwrap_err();
            match mood {
                Mood::Fails => assert!(matches!(error, TryError::Hook(_)), "{error:?}"),
                Mood::Refuses => assert!(error.is_refusal(), "{error:?}"),
                Mood::Panics => assert!(matches!(error, TryError::Panicked(_)), "{error:?}"),
                _ => assert!(matches!(error, TryError::Fence(_)), "{error:?}"),
            }
            assert_eq!((held.world.stock().await, held.rows().await), ((100, 0, 0), 0));
            assert_eq!(held.context.votes_header(), "");
        }
    }

    async fn h7_who_waits_for_a_lock_holds_nothing_here(_beside) {
        let options = BranchOptions::new().lock_keys(["sku:a"]);
        let Some(mut held) = Held::<DB>::start(Mood::Well, false, options, false).await else { return };
        held.nothing_is_seen().await;
        assert_eq!(held.world.hooks.counts().0, 0);
        held.answer();
        (&mut held.trying).await.unwrap().unwrap();
        assert_eq!(held.world.stock().await, (97, 3, 0));
    }
}
