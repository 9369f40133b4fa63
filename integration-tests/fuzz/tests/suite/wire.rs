//! Messages of gRPC: any bytes that protobuf takes, to domain types and back.

use proptest::prelude::*;
use prost::Message;
use unanimity_proto::{
    birth_from_wire, birth_to_wire, plan_from_wire, plan_to_wire, policy_from_wire, policy_to_wire,
    position_from_wire, position_to_wire, target_from_wire, target_to_wire, targets_from_wire,
    targets_to_wire, ticket_from_wire, ticket_to_wire, v1,
};

use crate::cases;

/// Fields of protobuf, nested a little: more of it is a message than of plain bytes.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let varint = (1u8..16, any::<u32>()).prop_map(|(tag, value)| {
        let mut out = vec![tag << 3];
        prost::encoding::encode_varint(u64::from(value), &mut out);
        out
    });
    let text = (1u8..16, "\\PC{0,20}|http://[a-z]{1,8}/[a-z]{0,8}")
        .prop_map(|(tag, text)| wrapped(tag, text.as_bytes()));
    let leaf = prop_oneof![varint, text];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let many = proptest::collection::vec(inner, 0..6).prop_map(|parts| parts.concat());
        prop_oneof![many.clone(), (1u8..16, many).prop_map(|(tag, inside)| wrapped(tag, &inside))]
    })
}

fn wrapped(tag: u8, inside: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    prost::encoding::encode_varint(inside.len() as u64, &mut out);
    out.extend_from_slice(inside);
    out
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => fields(), 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn targets(bytes in anything()) {
        if let Ok(wire) = v1::Target::decode(bytes.as_slice())
            && let Ok(target) = target_from_wire(wire)
        {
            prop_assert_eq!(target_from_wire(target_to_wire(&target)).expect("it was one"), target);
        }
        if let Ok(wire) = v1::BranchTargets::decode(bytes.as_slice())
            && let Ok(targets) = targets_from_wire(wire)
        {
            prop_assert_eq!(targets_from_wire(targets_to_wire(&targets)).expect("they were"), targets);
        }
    }

    #[test]
    fn plans(saga in proptest::option::of(anything()), message in proptest::option::of(anything())) {
        let saga = saga.and_then(|bytes| v1::SagaPlan::decode(bytes.as_slice()).ok());
        let message = message.and_then(|bytes| v1::MessagePlan::decode(bytes.as_slice()).ok());
        if let Ok(plan) = plan_from_wire(saga, message) {
            let (saga, message) = plan_to_wire(&plan);
            prop_assert_eq!(plan_from_wire(saga, message).expect("it was one"), plan);
        }
    }

    #[test]
    fn small_ones(bytes in anything()) {
        if let Ok(wire) = v1::CallPolicy::decode(bytes.as_slice())
            && let Ok(policy) = policy_from_wire(Some(wire))
        {
            prop_assert_eq!(policy_from_wire(policy_to_wire(&policy)).expect("it was one"), policy);
        }
        if let Ok(wire) = v1::LogPosition::decode(bytes.as_slice())
            && let Ok(position) = position_from_wire(&wire)
        {
            prop_assert_eq!(position_from_wire(&position_to_wire(position)).expect("it was one"), position);
        }
        if let Ok(wire) = v1::Ticket::decode(bytes.as_slice())
            && let Ok(ticket) = ticket_from_wire(&wire)
        {
            prop_assert_eq!(ticket_from_wire(&ticket_to_wire(ticket)).expect("it was one"), ticket);
        }
        if let Ok(wire) = v1::Birth::decode(bytes.as_slice())
            && let Ok(birth) = birth_from_wire(wire)
        {
            prop_assert_eq!(birth_from_wire(birth_to_wire(&birth)).expect("it was one"), birth);
        }
    }
}
