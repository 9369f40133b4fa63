//! The outbox through the real client: order per key, crashes, dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Sqlite;
use unanimity_sdk::{Client, DeathCause, Message, MessageTarget, Relay, ReplayError, Xid};
use unanimity_testing::TestCoordinator;

use super::service::{Mood, Service, eventually};

fn relay(orders: &Service, client: &Client) -> Relay<Sqlite> {
    Relay::builder(&orders.outbox, client.clone())
        .lease(Duration::from_millis(1_500))
        .poll(Duration::from_millis(50))
        .retry_cap(Duration::from_millis(100))
        .check_every(Duration::from_millis(100))
        .start()
}

async fn send(orders: &Service, key: &str, line: &str, commits: bool) -> Xid {
    let message = Message::new("order-placed").key(key).unwrap().payload(&line).unwrap();
    let message = message.to(MessageTarget::participant("mail", "take").unwrap());
    let mut tx = orders.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let id = orders.outbox.send(&mut tx, &message).await.unwrap();
    if commits {
        tx.commit().await.unwrap();
    } else {
        tx.rollback().await.unwrap();
    }
    orders.outbox.wake();
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h13_o1_o2_messages_arrive_once_and_in_the_order_of_their_key_over_crashes() {
    const MESSAGES: usize = 60;
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let mut relays = vec![relay(&orders, &client), relay(&orders, &client)];
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for n in 0..MESSAGES {
        let (key, line, commits) = (format!("k{}", n % 6), format!("k{} {n:03}", n % 6), n % 7 != 3);
        send(&orders, &key, &line, commits).await;
        if commits {
            expected.entry(key).or_default().push(line);
        }
        match n {
            20 | 45 => coordinator.restart().await.unwrap(),
            // Dies with what it has in hand, and another takes over.
            30 => drop(relays.pop()),
            _ => {}
        }
    }
    relays.push(relay(&orders, &client));
    let count: usize = expected.values().map(Vec::len).sum();
    eventually("all have arrived", async || mail.count("deliver").await == i64::try_from(count).unwrap())
        .await;
    let lines: Vec<String> =
        sqlx::query_scalar("SELECT line FROM lines ORDER BY n").fetch_all(&mail.pool).await.unwrap();
    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines {
        arrived.entry(line[..2].to_owned()).or_default().push(line);
    }
    assert_eq!(arrived, expected);
    eventually("the outbox knows", async || {
        let stats = relays[0].stats().await.unwrap();
        (stats.pending, stats.handed, stats.dead) == (0, 0, 0)
    })
    .await;
    mail.is_clean().await;
    for relay in relays {
        relay.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_replayed_when_the_coordinator_is_back() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (orders, mail) = (Service::open("orders", &client).await, Service::open("mail", &client).await);
    let relay = relay(&orders, &client);
    mail.hooks.next("deliver to-0", [Mood::Refuses]);
    let id = send(&orders, "k", "first", true).await;
    let mut dead = Vec::new();
    eventually("it is a dead letter", async || {
        dead = relay.dead_letters(0, 10).await.unwrap();
        dead.len() == 1
    })
    .await;
    assert_eq!((dead[0].id, dead[0].cause), (id, DeathCause::Parked));
    // What comes after it does not wait.
    send(&orders, "k", "second", true).await;
    eventually("the next one goes", async || mail.count("deliver").await == 1).await;
    coordinator.crash().await;
    assert!(matches!(relay.replay(id).await, Err(ReplayError::Handover(error)) if error.retryable));
    assert_eq!(relay.dead_letters(0, 10).await.unwrap().len(), 1);
    coordinator.restart().await.unwrap();
    eventually("it is replayed", async || relay.replay(id).await.is_ok()).await;
    eventually("it arrives", async || mail.count("deliver").await == 2).await;
    assert_eq!(mail.lines().await, ["deliver to-0 second", "deliver to-0 first"]);
    assert!(matches!(relay.replay(id).await, Err(ReplayError::NotDead)));
    mail.is_clean().await;
    relay.shutdown().await;
}
