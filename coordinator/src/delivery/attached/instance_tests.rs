//! What an instance is sent, and what not.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_types::{BranchKey, Limits, Name, Operation, Target};

use super::{Attachment, NewInstance};
use crate::delivery::lease_tests::{OPERATIONS, answers, call, outlived};
use crate::delivery::{Delivery, DeliveryConfig};
use crate::engine::{BranchCall, Dispatcher as _, ResultSink};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn bank() -> Target {
    Target::Participant { participant: name("bank"), operation: name("hooks") }
}

fn attached(concurrency: usize) -> (Arc<Delivery>, Attachment) {
    let delivery = Delivery::new(DeliveryConfig::default());
    let instance = NewInstance {
        name: name("one"),
        sdk: "test/1".to_owned(),
        serves: [name("hooks")].into(),
        concurrency,
    };
    let attachment = delivery.attach(&name("bank"), instance).expect("it runs");
    (delivery, attachment)
}

/// What a session sends while it is told that there is something, in messages.
fn sent(attachment: &Attachment) -> Vec<Vec<v1::BranchOperation>> {
    let mut messages = Vec::new();
    while attachment.look().outgoing {
        messages.push(attachment.take_batch());
    }
    messages
}

#[tokio::test]
async fn h3_what_goes_forward_does_not_leave_a_hand_after_the_lease_and_makes_room() {
    let (delivery, attachment) = attached(2);
    let (sink, mut replies, end_lease) = ResultSink::with_lease();
    delivery.dispatch(call(bank(), 100, Operation::Action), &sink);
    assert_eq!(sent(&attachment).concat()[0].branch_id, 100, "the lease holds");
    // One into the hand beside it, the others into the queue.
    for (branch, (operation, _)) in (1..).zip(OPERATIONS) {
        delivery.dispatch(call(bank(), branch, operation), &sink);
    }
    end_lease();
    let mut left = Vec::new();
    loop {
        let messages = sent(&attachment);
        let Some(operation) = messages.concat().pop() else { break };
        assert_eq!(attachment.look().in_hand, 2, "the hand is filled again, and no more than full");
        let done = v1::branch_result::Outcome::Done.into();
        let result =
            v1::BranchResult { call_id: operation.call_id, outcome: done, ..v1::BranchResult::default() };
        attachment.answers(&[result]);
        left.push(operation.branch_id);
    }
    let expected: Vec<u32> =
        (1..).zip(OPERATIONS).filter(|(_, (_, forward))| !forward).map(|(branch, _)| branch).collect();
    assert_eq!(left, expected);
    let answers = answers(&mut replies, OPERATIONS.len()).await;
    for (branch, (operation, is_forward)) in (1..).zip(OPERATIONS) {
        assert_eq!(outlived(&answers[&branch]), is_forward, "{operation}: {:?}", answers[&branch]);
        assert_eq!(answers[&branch] == ResultOutcome::Done, !is_forward, "{operation}");
    }
    // Only what left before is still out.
    assert_eq!((attachment.look().in_hand, delivery.stats()[0].queued), (1, 0));
}

/// A step that comes after many has all their results, each small beside its name: a message that is
/// larger than it may be would break the session each time anew.
#[tokio::test]
async fn a_message_is_never_larger_than_it_may_be() {
    const CALLS: u32 = 300;
    let (delivery, attachment) = attached(1_024);
    let (sink, _replies) = ResultSink::new();
    let key = |n: usize| BranchKey::new(format!("{n:0>128}")).expect("a key");
    let small: Vec<_> = (0..999).map(|n| (key(n), Bytes::from_static(b"7"))).collect();
    let large = vec![(key(1), Bytes::from(vec![0; Limits::PAYLOAD_BYTES_MAX]))];
    for branch in 1..=CALLS {
        let inputs = if branch % 50 == 0 { large.clone() } else { small.clone() };
        let payload = if branch % 50 == 0 { vec![0; Limits::PAYLOAD_BYTES_MAX] } else { Vec::new() };
        let step = BranchCall { inputs, payload: payload.into(), ..call(bank(), branch, Operation::Action) };
        delivery.dispatch(step, &sink);
    }
    let messages = sent(&attachment);
    for operations in &messages {
        let message = v1::BranchOperations { operations: operations.clone() };
        let bytes = message.encoded_len();
        assert!(bytes < Limits::MESSAGE_BYTES_MAX, "{} operations, {bytes} bytes", operations.len());
    }
    assert_eq!(messages.concat().len(), 300);
}
