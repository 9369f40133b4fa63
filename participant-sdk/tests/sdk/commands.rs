//! The command stream: many commands in a message, and what happens when it breaks.

use std::time::Duration;

use unanimity_proto::v1;
use unanimity_sdk::Client;

use crate::support::eventually;
use crate::support::fake::{Fake, OnCommit};

async fn order(client: &Client) -> Result<(), unanimity_sdk::TransactionError<std::io::Error>> {
    client.transaction("x").durable().run(async |_| Ok::<_, std::io::Error>(())).await
}

#[tokio::test]
async fn clones_share_one_stream_and_ask_together() {
    let fake = Fake::start().await;
    let client = fake.client();
    order(&client).await.unwrap();
    let orders = (0..100).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { order(&client).await })
    });
    for order in futures::future::join_all(orders).await {
        order.unwrap().unwrap();
    }
    fake.with(|state| {
        assert_eq!(state.streams, 1);
        assert_eq!(state.batches.iter().sum::<usize>(), 202);
        assert!(state.batches.iter().all(|count| *count <= 64), "{:?}", state.batches);
        assert!(state.batches.len() < 101, "{:?}", state.batches);
    });
}

/// Protocol M3: what has no answer is asked again with the same words.
#[tokio::test]
async fn m3_a_stream_that_breaks_in_the_middle_of_a_commit_is_no_end_of_it() {
    let fake = Fake::start().await;
    let client = fake.client();
    fake.with(|state| state.on_commit.push_back(OnCommit::Hang));
    let transaction = client.clone();
    let running = tokio::spawn(async move { order(&transaction).await });
    eventually("a commit", async || fake.with(|state| state.commits.len()) == 1).await;
    fake.break_streams();
    running.await.unwrap().unwrap();
    fake.with(|state| {
        assert_eq!(state.commits.len(), 2);
        assert_eq!(state.commits[0], state.commits[1]);
        assert_eq!((state.streams, state.aborts.len()), (2, 0));
    });
    // The same where a begin waits beside it: whatever has no answer is asked again.
    fake.break_streams();
    order(&client).await.unwrap();
}

#[tokio::test]
async fn a_coordinator_without_streams_is_called_for_good() {
    let fake = Fake::start().await;
    fake.with(|state| state.no_streams = true);
    let client = fake.client();
    for _ in 0..3 {
        order(&client).await.unwrap();
    }
    fake.with(|state| {
        assert_eq!((state.begun.len(), state.commits.len()), (3, 3));
        assert_eq!((state.streams, state.batches.len()), (1, 0));
    });
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_said_to_be_so_in_time() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::builder(format!("http://{nobody}"))
        .begin_retry_for(Duration::from_millis(300))
        .call_timeout(Duration::from_secs(600))
        .connect()
        .unwrap();
    let begun = tokio::time::timeout(Duration::from_secs(60), client.begin("x")).await;
    begun.expect("not the time of a call").expect_err("nobody there");
}

#[tokio::test]
async fn large_plans_go_by_calls_of_their_own() {
    let fake = Fake::start().await;
    let client = fake.client();
    let tx = client.transaction("x").durable().begin().await.unwrap();
    let branch = |bytes: usize| {
        let (confirm, cancel) = ("http://127.0.0.1:1/confirm", "http://127.0.0.1:1/cancel");
        let target = unanimity_sdk::StepTarget::http;
        unanimity_sdk::NewBranch::tcc(target(confirm), target(cancel)).payload_bytes(vec![7; bytes])
    };
    tx.register(branch(1_000_000)).await.unwrap();
    tx.register(branch(1_000)).await.unwrap();
    fake.with(|state| {
        assert_eq!((state.registered.len(), state.batches.iter().sum::<usize>()), (2, 2));
    });
    tx.abort().await.unwrap();
}

#[tokio::test]
async fn tickets_come_with_the_stream_and_go_with_it() {
    let fake = Fake::start().await;
    let ticket = Some(v1::Ticket { epoch: 3, epoch_tag: 7, generation: 9 });
    let tickets = vec![v1::PartitionTicket { partition: 0, ticket }];
    fake.with(|state| {
        let log_id = state.log_id.to_string();
        state.tickets = Some(v1::Tickets { tickets, partitions: 1, log_id });
    });
    let client = fake.client();
    // The first one opens the stream.
    let begin = async || client.begin("x").await.unwrap();
    let first = begin().await;
    assert_eq!(fake.with(|state| state.begun.len()), 1);
    eventually("a begin without a call", async || {
        let before = fake.with(|state| state.begun.len());
        begin().await.abort().await.unwrap();
        fake.with(|state| state.begun.len()) == before
    })
    .await;
    let before = fake.with(|state| state.begun.len());
    // The next stream will tell none.
    fake.with(|state| state.tickets = None);
    fake.break_streams();
    eventually("a begin by call", async || {
        begin().await.abort().await.unwrap();
        fake.with(|state| state.begun.len()) > before
    })
    .await;
    first.abort().await.unwrap();
}
