//! Sagas: results, refusals, outcomes that nobody knows, parked compensations, nested transactions.

use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use unanimity_sdk::{
    AbortCause, AbortReason, Client, Handover as _, HookError, Nested, Participant, Saga, Status, StepCall,
    StepHooks, TransactionError, WaitFor, nested, nested_undo,
};
use unanimity_testing::TestCoordinator;

use super::service::{Hooks, LIMIT, Mood, Service, eventually, finished};

fn step(saga: Saga, name: &str) -> Saga {
    let saga = saga.step(name).action(("trips", "book")).compensate(("trips", "book"));
    saga.payload(name).unwrap()
}

fn trip(steps: &[&str]) -> Saga {
    steps.iter().fold(Saga::new("trip"), |saga, name| step(saga, name)).wait(WaitFor::Finished)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_go_to_later_steps_and_to_the_caller() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    let done = trip(&["a", "b", "c"]).run(&client).await.unwrap();
    assert_eq!(done.result_of::<String>("c").unwrap().as_deref(), Some("c<a><b<a>>"));
    assert_eq!(service.lines().await, ["action a a", "action b b<a>", "action c c<a><b<a>>"]);
    service.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_refusal_turns_the_saga_back_in_reverse_order_with_results() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    service.hooks.next("action c", [Mood::Refuses]);
    let refused = trip(&["a", "b", "c"]).run(&client).await;
    let Err(TransactionError::Aborted { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, AbortCause::Coordinator(AbortReason::Refused));
    let lines = ["action a a", "action b b<a>", "compensate b b<a>", "compensate a a"];
    assert_eq!(service.lines().await, lines);
    service.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_an_unknown_outcome_is_tried_again_or_compensated() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    service.hooks.next("action b", [Mood::Panics]);
    trip(&["a", "b"]).run(&client).await.unwrap();
    assert_eq!(service.lines().await, ["action a a", "action b b<a>"]);
    // Given up: what never took effect has nothing to undo.
    service.hooks.next("action b", [Mood::Panics, Mood::Panics]);
    let gave_up = trip(&["a", "b"]).give_up_after(2).run(&client).await;
    let Err(TransactionError::Aborted { reason, .. }) = gave_up else { panic!("{gave_up:?}") };
    assert_eq!(reason, AbortCause::Coordinator(AbortReason::GaveUp));
    assert_eq!(service.lines().await[2..], ["action a a", "compensate a a"]);
    service.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_an_action_that_outlives_its_attempt_is_done_once() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    service.hooks.next("action a", [Mood::Slow(Duration::from_millis(1_500))]);
    let done = trip(&["a"]).step_timeout(Duration::from_millis(300)).run(&client).await.unwrap();
    assert_eq!(done.result_of::<String>("a").unwrap().as_deref(), Some("a"));
    assert!(done.branch("a").unwrap().attempts > 1, "{done:?}");
    assert_eq!(service.lines().await, ["action a a"]);
    service.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_a_saga_that_turns_while_its_action_runs_undoes_it() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    service.hooks.next("action a", [Mood::Slow(Duration::from_millis(1_500))]);
    let saga = trip(&["a"]).step_timeout(Duration::from_millis(300)).timeout(Duration::from_millis(600));
    let late = saga.run(&client).await;
    let Err(TransactionError::Aborted { xid, reason }) = late else { panic!("{late:?}") };
    assert_eq!(reason, AbortCause::Coordinator(AbortReason::Deadline));
    assert_eq!(finished(&client, xid).await.status, Status::Aborted);
    assert_eq!(service.lines().await, ["action a a", "compensate a a"]);
    service.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_refused_compensation_is_parked_over_a_crash_and_goes_on_after_a_retry() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::open("trips", &client).await;
    service.hooks.next("action c", [Mood::Refuses]);
    service.hooks.next("compensate b", [Mood::Refuses]);
    let saga = trip(&["a", "b", "c"]).submit(&client).await.unwrap();
    let parked = async |client: &Client| {
        client.status(saga.xid()).await.is_ok_and(|info| info.branch("b").is_some_and(|b| b.parked))
    };
    eventually("it is parked", async || parked(&client).await).await;
    coordinator.restart().await.unwrap();
    eventually("it is parked", async || parked(&client).await).await;
    assert_eq!(service.count("compensate").await, 0, "a waits for b");
    assert!(!service.participant.health().await.unwrap().is_well());
    client.retry(saga.xid()).await.unwrap();
    assert_eq!(finished(&client, saga.xid()).await.status, Status::Aborted);
    assert_eq!(service.lines().await[2..], ["compensate b b<a>", "compensate a a"]);
    service.is_clean().await;
}

/// A step whose action is a transaction over another service.
struct Order {
    client: Client,
    stock: Participant<Sqlite>,
}

impl StepHooks<Sqlite> for Order {
    type Payload = String;
    type Output = String;

    async fn action(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        call: &StepCall<String>,
    ) -> Result<String, HookError> {
        let line = call.payload.clone();
        let placed =
            nested(&self.client, call, async |tx| self.stock.try_in::<Hooks>(&tx, line).await).await?;
        Ok(if placed == Nested::Now(()) { "now" } else { "before" }.to_owned())
    }

    async fn compensate(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        call: &StepCall<String>,
        _: Option<String>,
    ) -> Result<(), HookError> {
        let line = format!("undo {}", call.payload);
        nested_undo(&self.client, call, async |tx| self.stock.try_in::<Hooks>(&tx, line).await).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_a_step_that_is_a_transaction_commits_and_is_undone_by_another() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let stock = Service::open("stock", &client).await;
    let order = Order { client: client.clone(), stock: stock.participant.clone() };
    let trips = Service::with("trips", &client, |builder, hooks| {
        builder.saga_step("book", hooks).saga_step_external("order", order)
    })
    .await;
    let saga = || {
        let saga = Saga::new("order")
            .timeout(Duration::from_secs(8))
            .step("inner")
            .action(("trips", "order"))
            .compensate(("trips", "order"));
        step(saga.payload("goods").unwrap(), "after").wait(WaitFor::Finished)
    };
    let refused = async || {
        let result = saga().run(&client).await;
        let Err(TransactionError::Aborted { xid, reason }) = result else { panic!("{result:?}") };
        let info = client.status(xid).await.unwrap();
        assert_eq!(reason, AbortCause::Coordinator(AbortReason::Refused), "{info:?}");
    };
    // Done, and undone since the step after it refuses.
    trips.hooks.next("action after", [Mood::Refuses]);
    refused().await;
    let whats = async || -> Vec<(String, String)> {
        sqlx::query_as("SELECT what, line FROM lines ORDER BY n").fetch_all(&stock.pool).await.unwrap()
    };
    let pair = |what: &str, line: &str| (what.to_owned(), line.to_owned());
    eventually("both are confirmed", async || stock.count("confirm").await == 2).await;
    let mut found = whats().await;
    found.sort();
    let expected = [
        pair("confirm", "goods"),
        pair("confirm", "undo goods"),
        pair("try", "goods"),
        pair("try", "undo goods"),
    ];
    assert_eq!(found, expected);
    // Committed for good.
    saga().wait_at_most(LIMIT).run(&client).await.unwrap();
    eventually("it is confirmed", async || stock.count("confirm").await == 3).await;
    stock.is_clean().await;
    trips.is_clean().await;
}
