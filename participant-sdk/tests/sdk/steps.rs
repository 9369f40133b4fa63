//! Steps of sagas at their participant: the rows K, S2, S4, S5 and S8 of the crash matrix and H3, for
//! every database.

use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use unanimity_proto::v1::Operation::{Action, Compensate, Confirm};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::{self, BranchOperation};
use unanimity_sdk::{Fence, HookError, Participant, StepCall, StepHooks, Xid};

use crate::support::databases::{Guard, TestDatabase, fence};
use crate::support::eventually;
use crate::support::fake::Fake;
use crate::support::stock::{Mood, Reserve, Take, stock};

struct World<DB: TestDatabase> {
    fake: Fake,
    fence: Fence<DB>,
    hooks: Reserve,
    participant: Participant<DB>,
    _guard: Guard,
}

impl<DB: TestDatabase> World<DB>
where
    Reserve: StepHooks<DB, Payload = Take, Output = i64>,
{
    async fn start(external: bool) -> Option<Self> {
        let Some((fence, guard)) = fence::<DB>().await else {
            eprintln!("SKIPPED: no server for this database on this machine");
            return None;
        };
        let (fake, hooks) = (Fake::start().await, Reserve::default());
        let builder = Participant::builder("flights", fence.clone())
            .hook_timeout(Duration::from_secs(5))
            .in_doubt_after(Duration::ZERO)
            .in_doubt_every(Duration::from_millis(20))
            .collect_every(Duration::from_millis(20));
        let builder = match external {
            true => builder.saga_step_external("book", hooks.clone()),
            false => builder.saga_step("book", hooks.clone()),
        };
        let participant = builder.attach(&fake.client()).await.unwrap();
        Some(Self { fake, fence, hooks, participant, _guard: guard })
    }

    async fn stock(&self) -> (i64, i64, i64) {
        stock(self.fence.pool()).await
    }

    async fn ask(&self, operation: v1::Operation, xid: Xid) -> (Outcome, String, Vec<u8>) {
        let result = self.fake.ask(of(operation, xid)).await;
        (result.outcome(), result.error, result.result.to_vec())
    }

    async fn rows(&self, state: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM unanimity_fence WHERE kind = 'step' AND state = '{state}'");
        DB::number(self.fence.pool(), &sql).await
    }
}

fn xid() -> Xid {
    Xid::new(uuid::Uuid::new_v4())
}

fn of(operation: v1::Operation, xid: Xid) -> BranchOperation {
    BranchOperation {
        xid: xid.to_string(),
        branch_id: 1,
        key: "flight".into(),
        operation: operation.into(),
        name: "book".into(),
        payload: r#"{"quantity":3}"#.into(),
        attempt: 1,
        timeout_ms: 10_000,
        kind: v1::BranchKind::Step.into(),
        ..Default::default()
    }
}

macro_rules! conformance {
    ($($(#[$meta:meta])* async fn $name:ident($world:ident $(, external = $external:literal)?) $body:block)+) => {
        $($(#[$meta])* async fn $name<DB: TestDatabase>()
        where
            Reserve: StepHooks<DB, Payload = Take, Output = i64>,
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
    async fn s2_a_repeated_action_brings_the_same_result(world) {
        let xid = xid();
        let mut first = of(Action, xid);
        first.inputs.insert("before".into(), "40000".into());
        let result = world.fake.ask(first.clone()).await;
        assert_eq!((result.outcome(), &*result.result), (Outcome::Done, &b"41003"[..]));
        for _ in 0..3 {
            assert_eq!(world.fake.ask(first.clone()).await.result, result.result);
        }
        assert_eq!(world.hooks.counts(), (1, 0, 0));
        assert_eq!(world.stock().await, (97, 3, 0));
        assert!(world.participant.health().await.unwrap().is_well());
    }

    async fn k1_an_action_whose_answer_was_lost_is_compensated_once_with_its_result(world) {
        let xid = xid();
        world.ask(Action, xid).await;
        let mut undo = of(Compensate, xid);
        // The coordinator's word on the result is not needed, and does not replace the row's.
        undo.result = "7".into();
        for _ in 0..3 {
            assert_eq!(world.fake.ask(undo.clone()).await.outcome(), Outcome::Done);
        }
        assert_eq!(*world.hooks.undone.lock().unwrap(), Some(1_003));
        assert_eq!(world.hooks.counts(), (1, 0, 1));
        assert_eq!(world.stock().await, (100, 0, 0));
    }

    async fn s4_k2_a_compensation_before_its_action_leaves_a_tombstone_and_succeeds(world) {
        let xid = xid();
        for _ in 0..2 {
            assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        }
        assert_eq!((world.hooks.counts(), world.rows("tombstone").await), ((0, 0, 0), 1));
    }

    async fn s4_s8_h3_a_late_action_is_refused_without_effect(world) {
        let (never, undone) = (xid(), xid());
        world.ask(Compensate, never).await;
        world.ask(Action, undone).await;
        world.ask(Compensate, undone).await;
        for xid in [never, undone] {
            for _ in 0..2 {
                let (outcome, error, result) = world.ask(Action, xid).await;
                assert_eq!((outcome, result.len()), (Outcome::Refused, 0));
                assert!(error.contains("too late"), "{error}");
            }
        }
        assert_eq!((world.hooks.counts(), world.stock().await), ((1, 0, 1), (100, 0, 0)));
    }

    async fn h2_h14_a_refusal_that_ends_its_step_is_sealed(world) {
        let xid = xid();
        let ask = async |role: v1::StepRole| {
            world.fake.ask(BranchOperation { role: role.into(), ..of(Action, xid) }).await.outcome()
        };
        // One that only goes forward is tried again when somebody mended what it refused for.
        world.hooks.set(Mood::Refuses);
        assert_eq!(ask(v1::StepRole::ForwardOnly).await, Outcome::Refused);
        assert_eq!(world.rows("tombstone").await, 0);
        assert_eq!(ask(v1::StepRole::Pivot).await, Outcome::Sealed);
        assert_eq!(world.rows("tombstone").await, 1);
        // The answer was lost, or an earlier attempt arrives late: the same answer, and no effect.
        world.hooks.set(Mood::Well);
        assert_eq!(ask(v1::StepRole::Pivot).await, Outcome::Sealed);
        assert_eq!(ask(v1::StepRole::Compensatable).await, Outcome::Sealed);
        assert_eq!(ask(v1::StepRole::ForwardOnly).await, Outcome::Refused);
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        assert_eq!((world.hooks.counts().2, world.stock().await), (0, (100, 0, 0)));
    }

    async fn s5_a_repeated_compensation_does_nothing_more(world) {
        let xid = xid();
        world.ask(Action, xid).await;
        world.hooks.set(Mood::Fails);
        for _ in 0..2 {
            assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Unknown);
            assert_eq!(world.stock().await, (97, 3, 0));
        }
        assert!(!world.participant.health().await.unwrap().is_well(), "a compensation that fails is told");
        world.hooks.set(Mood::Well);
        for _ in 0..3 {
            assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        }
        assert_eq!((world.hooks.counts().2, world.stock().await), (3, (100, 0, 0)));
        assert!(world.participant.health().await.unwrap().is_well());
    }

    async fn k5_effect_and_result_are_there_together_or_not_at_all(world) {
        for (mood, outcome) in
            [(Mood::Fails, Outcome::Unknown), (Mood::Panics, Outcome::Unknown), (Mood::Refuses, Outcome::Refused), (Mood::RollsBack, Outcome::Unknown)]
        {
            let xid = xid();
            world.hooks.set(mood);
            for _ in 0..2 {
                let answer = world.ask(Action, xid).await;
                assert_eq!(answer.0, outcome, "{mood:?}: {}", answer.1);
                assert_eq!(world.stock().await, (100, 0, 0), "{mood:?}");
                assert_eq!(DB::number(world.fence.pool(), "SELECT count(*) FROM unanimity_fence").await, 0);
            }
            world.hooks.set(Mood::Well);
            assert_eq!(world.ask(Action, xid).await.0, Outcome::Done);
            assert_eq!(world.stock().await, (97, 3, 0));
            world.hooks.set(mood);
            assert_eq!(world.ask(Compensate, xid).await.0, outcome, "{mood:?}");
            assert_eq!(world.stock().await, (97, 3, 0), "{mood:?}");
            world.hooks.set(Mood::Well);
            assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
            assert_eq!(world.stock().await, (100, 0, 0));
            DB::execute(world.fence.pool(), "DELETE FROM unanimity_fence").await;
        }
    }

    async fn k7_the_compensation_of_an_action_that_refused_does_nothing(world) {
        let xid = xid();
        world.hooks.set(Mood::Refuses);
        assert_eq!(world.ask(Action, xid).await.1, "out of stock");
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        assert_eq!(world.hooks.counts(), (1, 0, 0));
    }

    async fn k7_also_in_the_external_form(world, external = true) {
        let xid = xid();
        world.hooks.set(Mood::Refuses);
        assert_eq!(world.ask(Action, xid).await.0, Outcome::Refused);
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        assert_eq!(world.hooks.counts(), (1, 0, 0));
    }

    async fn s4_an_external_action_of_unknown_outcome_is_compensated(world, external = true) {
        let xid = xid();
        world.hooks.set(Mood::Fails);
        assert_eq!(world.ask(Action, xid).await.0, Outcome::Unknown);
        assert_eq!(world.rows("trying").await, 1, "the row stays, so that compensate comes");
        // A refusal after that says nothing of the attempt before: the row still stays.
        world.hooks.set(Mood::Refuses);
        assert_eq!(world.ask(Action, xid).await.0, Outcome::Refused);
        assert_eq!(world.rows("trying").await, 1);
        world.hooks.set(Mood::Well);
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        assert_eq!(world.hooks.counts(), (2, 0, 1));
        assert_eq!(*world.hooks.undone.lock().unwrap(), None, "nobody knows what it brought");
        assert_eq!(world.ask(Action, xid).await.0, Outcome::Refused);
    }

    async fn k6_the_opposite_after_the_end_is_refused_and_raises_attention(world) {
        let xid = xid();
        world.ask(Action, xid).await;
        world.fake.answer(xid, "committed", true);
        eventually("the step is closed", async || world.rows("confirmed").await == 1).await;
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Refused);
        assert_eq!(world.ask(Action, xid).await.2, b"1003", "a repeat is still answered");
        // An operation of another kind does not touch it.
        assert_eq!(world.ask(Confirm, xid).await.0, Outcome::Unknown);
        assert_eq!(world.stock().await, (97, 3, 0));
        let health = world.participant.health().await.unwrap();
        assert_eq!(health.attention.iter().filter(|a| a.code == "contradiction").count(), 1);
    }

    async fn h3_a_compensation_waits_for_the_action_that_is_still_running(world) {
        let xid = xid();
        world.hooks.set(Mood::Slow(Duration::from_secs(1)));
        let action = world.fake.ask_later(of(Action, xid)).await;
        eventually("the hook runs", async || world.hooks.counts().0 == 1).await;
        // PostgreSQL: lock_timeout of 500 ms. SQLite waits for the write lock for 5 s and gets it.
        assert!(matches!(world.ask(Compensate, xid).await.0, Outcome::Unknown | Outcome::Done));
        assert_eq!(action.await.unwrap().outcome(), Outcome::Done);
        world.hooks.set(Mood::Well);
        assert_eq!(world.ask(Compensate, xid).await.0, Outcome::Done);
        assert_eq!((world.hooks.counts().2, world.stock().await), (1, (100, 0, 0)));
    }

    async fn h9_steps_in_doubt_are_not_compensated_by_themselves_and_go_when_all_is_settled(world) {
        let [active, aborting, kept, undone] = [xid(), xid(), xid(), xid()];
        for xid in [active, aborting, kept, undone] {
            world.ask(Action, xid).await;
        }
        world.ask(Compensate, undone).await;
        world.fake.answer(active, "active", false);
        world.fake.answer(aborting, "aborted", false);
        world.fake.answer(kept, "aborted", true);
        eventually("a step with nothing to undo is closed", async || world.rows("confirmed").await == 1).await;
        assert_eq!((world.rows("tried").await, world.rows("cancelled").await), (2, 1));
        // Compensations have an order, which is the coordinator's.
        assert_eq!((world.hooks.counts().2, world.stock().await), (1, (91, 9, 0)));
        assert!(world.participant.health().await.unwrap().is_well());
    }

    async fn what_does_not_fit_the_hooks_has_no_effect(world) {
        let mut large = of(Action, xid());
        large.inputs.insert("before".into(), "x".into());
        assert_eq!(world.fake.ask(large).await.outcome(), Outcome::Unknown, "an input of another type");
        let mut other = of(Action, xid());
        other.payload = "[]".into();
        assert_eq!(world.fake.ask(other).await.outcome(), Outcome::Unknown, "a payload of another type");
        assert_eq!(world.stock().await, (100, 0, 0));
        let mut unknown = of(Action, xid());
        unknown.name = "nobody".into();
        assert_eq!(world.fake.ask(unknown).await.outcome(), Outcome::Unknown);
        let health = world.participant.health().await.unwrap();
        assert_eq!(health.attention.iter().filter(|a| a.code == "unknown_hooks").count(), 1);
    }

    async fn an_action_with_another_payload_under_the_same_key_has_no_effect(world) {
        let xid = xid();
        world.ask(Action, xid).await;
        let mut other = of(Action, xid);
        other.payload = r#"{"quantity":4}"#.into();
        assert_eq!(world.fake.ask(other).await.outcome(), Outcome::Unknown);
        assert_eq!(world.stock().await, (97, 3, 0));
        assert!(!world.participant.health().await.unwrap().is_well());
    }

    async fn at_an_address_the_coordinator_names_no_hooks(world) {
        let mut action = of(Action, xid());
        action.name = String::new();
        assert_eq!(world.fake.ask(action).await.outcome(), Outcome::Done);
        assert_eq!(world.stock().await, (97, 3, 0));
    }
}

/// Brings a text of so many bytes.
struct Brings(usize);

impl StepHooks<Sqlite> for Brings {
    type Payload = serde_json::Value;
    type Output = String;

    async fn action(
        &self,
        tx: &mut sqlx::Transaction<'_, Sqlite>,
        _: &StepCall<serde_json::Value>,
    ) -> Result<String, HookError> {
        sqlx::query("UPDATE stock SET free = free - 1").execute(&mut **tx).await?;
        Ok("x".repeat(self.0))
    }

    async fn compensate(
        &self,
        tx: &mut sqlx::Transaction<'_, Sqlite>,
        _: &StepCall<serde_json::Value>,
        result: Option<String>,
    ) -> Result<(), HookError> {
        assert_eq!(result.map(|text| text.len()), Some(self.0), "what it brought, all of it");
        sqlx::query("UPDATE stock SET free = free + 1").execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_result_that_is_too_large_refuses_what_can_be_taken_back() {
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let fake = Fake::start().await;
    let builder = Participant::builder("flights", fence.clone()).saga_step("book", Brings(70_000));
    let participant = builder.attach(&fake.client()).await.unwrap();
    assert_eq!(fake.ask(of(Action, xid())).await.outcome(), Outcome::Refused);
    assert_eq!(stock(fence.pool()).await.0, 100);
    participant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_result_that_is_too_large_is_no_refusal_of_an_external_action() {
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let fake = Fake::start().await;
    let builder =
        Participant::builder("flights", fence.clone()).saga_step_external("book", Brings(5_000_000));
    let participant = builder.attach(&fake.client()).await.unwrap();
    let xid = xid();
    for _ in 0..2 {
        let result = fake.ask(of(Action, xid)).await;
        // Its effect is there. The coordinator sees that, and that the result is too large.
        assert_eq!((result.outcome(), result.result.len()), (Outcome::Done, 64 * 1_024 + 1));
        assert_eq!(stock(fence.pool()).await.0, 99);
    }
    assert_eq!(fake.ask(of(Compensate, xid)).await.outcome(), Outcome::Done);
    assert_eq!(stock(fence.pool()).await.0, 100);
    participant.shutdown().await;
}
