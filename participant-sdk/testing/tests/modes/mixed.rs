//! Messages that go out with a transaction, and lock keys.

use std::time::Duration;

use unanimity_sdk::{BranchOptions, ClientError, OnCommit, TransactionError, TryError};
use unanimity_testing::TestCoordinator;

use super::service::{Hooks, Service, eventually, finished};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_message_goes_out_with_a_commit_and_never_with_an_abort() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let (shop, mail) = (Service::open("shop", &client).await, Service::open("mail", &client).await);
    for (line, commits) in [("kept", true), ("gone", false)] {
        let result = client
            .transaction("order")
            .run(async |tx| {
                shop.participant.try_in::<Hooks>(&tx, line.to_owned()).await.map_err(|e| e.to_string())?;
                let message = OnCommit::to(("mail", "take")).payload(line).unwrap();
                tx.send_on_commit(message).await.map_err(|e| e.to_string())?;
                if commits { Ok(tx.xid()) } else { Err("no".to_owned()) }
            })
            .await;
        let xid = match result {
            Ok(xid) | Err(TransactionError::User { xid, .. }) => xid,
            Err(error) => panic!("{error}"),
        };
        coordinator.restart().await.unwrap();
        finished(&client, xid).await;
    }
    assert_eq!((shop.count("confirm").await, shop.count("cancel").await), (1, 1));
    assert_eq!(mail.lines().await.len(), 1);
    assert!(mail.lines().await[0].ends_with(" kept"));
    shop.is_clean().await;
    mail.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h7_a_lock_is_held_until_every_branch_is_settled_and_its_holder_is_named() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let shop = Service::open("shop", &client).await;
    let locked = || BranchOptions::new().lock_keys(["inventory:sku-7"]);
    // It is to outlive the restart undecided.
    let first = client.transaction("order").durable().begin().await.unwrap();
    // Twice by one transaction is one lock.
    for line in ["a", "b"] {
        shop.participant.try_in_with::<Hooks>(&first, locked(), line.to_owned()).await.unwrap();
    }
    coordinator.restart().await.unwrap();
    let second = client.begin("order").await.unwrap();
    let conflict = shop.participant.try_in_with::<Hooks>(&second, locked(), "c".to_owned()).await;
    let Err(TryError::Registration(ClientError::LockConflict { holder, .. })) = &conflict else {
        panic!("{conflict:?}")
    };
    assert_eq!(*holder, Some(first.xid()));
    assert!(conflict.unwrap_err().is_retryable());
    second.abort().await.unwrap();
    let third = client.begin("order").await.unwrap();
    let waits = locked().lock_wait(Duration::from_secs(20));
    let (tried, committed) =
        tokio::join!(shop.participant.try_in_with::<Hooks>(&third, waits, "d".to_owned()), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            first.commit().await
        });
    committed.unwrap();
    tried.unwrap();
    third.commit().await.unwrap();
    eventually("all is confirmed", async || shop.count("confirm").await == 3).await;
    assert_eq!(shop.count("try").await, 3, "who had no lock was not tried");
    shop.is_clean().await;
}
