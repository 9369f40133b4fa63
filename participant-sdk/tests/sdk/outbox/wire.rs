//! The relay over the real wire, with the SDK's client as its hand-over.

use std::time::Duration;

use sqlx::Sqlite;
use unanimity_proto::v1;
use unanimity_sdk::{Message, MessageTarget, Relay};

use super::databases::outbox;
use crate::support::eventually;
use crate::support::fake::Fake;

#[tokio::test]
async fn o2_a_message_is_a_submitted_transaction_under_its_own_id() {
    let (outbox, _guard) = outbox::<Sqlite>().await.unwrap();
    let fake = Fake::start().await;
    // Begins that fail are repeated, the same each time (O3).
    fake.with(|state| state.fail_begins = 2);
    let message = Message::new("order-placed")
        .key("order-7")
        .unwrap()
        .payload(&7)
        .unwrap()
        .to(MessageTarget::participant("mail", "welcome").unwrap())
        .to(MessageTarget::url("http://a.example/hook").unwrap())
        .give_up_after(5);
    let mut tx = outbox.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
    let id = outbox.send(&mut tx, &message).await.unwrap();
    tx.commit().await.unwrap();
    let relay = Relay::builder(&outbox, fake.client())
        .poll(Duration::from_millis(50))
        .check_every(Duration::from_millis(50))
        .retry_cap(Duration::from_millis(50))
        .start();
    eventually("it was asked about", async || fake.with(|state| !state.inquiries.is_empty())).await;
    fake.with(|state| {
        assert_eq!(state.begun.len(), 3);
        assert!(state.begun.iter().all(|begun| *begun == state.begun[0]), "the same body each time");
        let begun = &state.begun[0];
        assert_eq!((begun.mode(), begun.xid.as_str()), (v1::Mode::Message, id.to_string().as_str()));
        let plan = begun.message.as_ref().unwrap();
        assert!(plan.submit && plan.check_back.is_none());
        assert_eq!(plan.deliveries.len(), 2);
        for delivery in &plan.deliveries {
            assert_eq!(delivery.payload, "7");
            assert_eq!(delivery.policy.as_ref().unwrap().give_up_after, 5);
        }
        assert!(state.inquiries.iter().all(|inquiry| inquiry.xids == [id.to_string()]));
    });
    assert_eq!(relay.stats().await.unwrap().handed, 1, "active is not delivered");
    fake.with(|state| state.answers.insert(id.to_string(), ("committed", false)));
    eventually("it was looked at", async || fake.with(|state| !state.waits.is_empty())).await;
    assert_eq!(relay.stats().await.unwrap().handed, 1, "decided is not delivered");
    fake.with(|state| state.answers.insert(id.to_string(), ("committed", true)));
    eventually("it is delivered", async || relay.stats().await.unwrap() == Default::default()).await;
    relay.shutdown().await;
}
