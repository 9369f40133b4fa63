//! Messages that are prepared: submits that are lost, local transactions that are open or roll back.

use std::time::Duration;

use sqlx::Connection as _;
use unanimity_sdk::{Client, FenceError, LocalError, MessageBuilder, Status};
use unanimity_testing::TestCoordinator;

use super::service::{Service, eventually, finished};

fn message(client: &Client) -> MessageBuilder {
    let message = client.message("order-placed").deliver(("mail", "take"), "hello").unwrap();
    message.check_back("orders", "placed").timeout(Duration::from_millis(800))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_a_submit_that_was_lost_is_found_by_the_check_back() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let prepared = message(&client).prepare().await.unwrap();
    let mut tx = orders.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    orders.fence.mark_sent(&mut tx, &prepared).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(mail.count("deliver").await, 0);
    assert_eq!(finished(&client, prepared.xid()).await.status, Status::Committed);
    assert_eq!(mail.lines().await, ["deliver 1 hello"]);
    orders.is_clean().await;
    mail.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_of_a_local_transaction_that_rolled_back_nothing_is_delivered() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let prepared = message(&client).prepare().await.unwrap();
    let xid = prepared.xid();
    let mut tx = orders.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    orders.fence.mark_sent(&mut tx, &prepared).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(finished(&client, xid).await.status, Status::Aborted);
    // Another try of the same message cannot commit any more, now or when the answer is collected.
    let mut tx = orders.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    assert!(matches!(orders.fence.mark_sent(&mut tx, &prepared).await, Err(FenceError::MessageTooLate)));
    tx.rollback().await.unwrap();
    orders.is_clean().await;
    let again = message(&client).xid(xid).prepare().await;
    assert!(again.is_err(), "I10: it is aborted, and its tombstone collected: {again:?}");
    assert_eq!(mail.count("deliver").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o5_a_check_back_waits_for_the_open_local_transaction_over_a_crash() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let prepared = message(&client).prepare().await.unwrap();
    let xid = prepared.xid();
    let mut tx = orders.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    orders.fence.mark_sent(&mut tx, &prepared).await.unwrap();
    let asked = async || {
        client.status(xid).await.is_ok_and(|info| info.branch("sender").is_some_and(|b| b.attempts > 0))
    };
    eventually("it is asked", asked).await;
    coordinator.restart().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.wait_decided(xid, Duration::ZERO).await.unwrap().status, Status::Active);
    tx.commit().await.unwrap();
    assert_eq!(finished(&client, xid).await.status, Status::Committed);
    assert_eq!(mail.lines().await, ["deliver 1 hello"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_transaction_and_its_message_go_together() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let insert = "INSERT INTO lines (xid, branch, what, line) VALUES ('', $1, 'order', '')";
    for n in 0..10 {
        let prepared = message(&client).prepare().await.unwrap();
        let xid = prepared.xid();
        let result = prepared
            .in_local_transaction(&orders.fence, |tx| {
                Box::pin(async move {
                    sqlx::query(insert).bind(n).execute(&mut **tx).await.unwrap();
                    if n % 2 == 0 { Ok(()) } else { Err("changed my mind") }
                })
            })
            .await;
        assert_eq!(matches!(result, Err(LocalError::User(_))), n % 2 == 1, "{result:?}");
        let expected = if n % 2 == 0 { Status::Committed } else { Status::Aborted };
        assert_eq!(finished(&client, xid).await.status, expected);
    }
    assert_eq!((orders.count("order").await, mail.count("deliver").await), (5, 5));
    orders.is_clean().await;
    mail.is_clean().await;
    let mut connection = orders.pool.acquire().await.unwrap();
    connection.ping().await.unwrap();
}
