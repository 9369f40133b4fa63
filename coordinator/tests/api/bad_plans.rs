//! Plans that cannot be carried out: the same code by HTTP and by gRPC, and nothing begun.

use serde_json::{Value, json};
use unanimity_proto::v1;
use unanimity_types::Limits;

use crate::support::{Fixture, grpc_code};

const URL: &str = "http://127.0.0.1:1/x";

fn step(name: &str) -> Value {
    json!({ "name": name, "action": { "url": URL }, "compensate": { "url": URL } })
}

/// A step with more or other fields.
fn with(mut step: Value, fields: Value) -> Value {
    let (Some(step_fields), Value::Object(fields)) = (step.as_object_mut(), fields) else {
        panic!("objects")
    };
    step_fields.extend(fields);
    step_fields.retain(|_, value| !value.is_null());
    step
}

fn saga(steps: &[Value]) -> Value {
    json!({ "mode": "saga", "steps": steps })
}

fn message(fields: Value) -> Value {
    with(json!({ "mode": "message" }), fields)
}

/// The same request for gRPC.
fn wire(body: &Value) -> v1::BeginRequest {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let target = |value: &Value| {
        value["url"].as_str().map(|url| v1::Target { kind: Some(v1::target::Kind::Url(url.to_owned())) })
    };
    let policy = |value: &Value| {
        Some(v1::CallPolicy {
            initial_ms: value["retry"]["initial_ms"].as_u64().unwrap_or_default(),
            timeout_ms: value["timeout_ms"].as_u64().unwrap_or_default(),
            ..Default::default()
        })
    };
    let payload = |value: &Value| if value.is_null() { Vec::new() } else { value.to_string().into_bytes() };
    let steps: Option<&Vec<Value>> = body["steps"].as_array();
    let saga = steps.map(|steps| v1::SagaPlan {
        steps: steps
            .iter()
            .enumerate()
            .map(|(at, step)| v1::SagaStep {
                name: text(&step["name"]),
                action: target(&step["action"]),
                compensate: target(&step["compensate"]),
                payload: payload(&step["payload"]).into(),
                after: match (step["after"].as_array(), at.checked_sub(1)) {
                    (Some(after), _) => after.iter().map(text).collect(),
                    (None, Some(before)) => vec![text(&steps[before]["name"])],
                    (None, None) => Vec::new(),
                },
                role: match step["role"].as_str() {
                    None => 0,
                    Some("pivot") => v1::StepRole::Pivot.into(),
                    Some("forward_only") => v1::StepRole::ForwardOnly.into(),
                    Some(_) => 77,
                },
                policy: policy(step),
            })
            .collect(),
    });
    let message = body["deliver"].as_array().map(|deliver| v1::MessagePlan {
        check_back: target(&body["check_back"]),
        check_back_payload: payload(&body["check_back_payload"]).into(),
        deliveries: deliver
            .iter()
            .map(|delivery| v1::Delivery {
                key: text(&delivery["key"]),
                target: target(delivery),
                payload: payload(&delivery["payload"]).into(),
                policy: policy(delivery),
            })
            .collect(),
        submit: body["submit"].as_bool().unwrap_or_default(),
    });
    let mode = match body["mode"].as_str() {
        Some("saga") => v1::Mode::Saga,
        Some("message") => v1::Mode::Message,
        Some("two_phase") => v1::Mode::TwoPhase,
        _ => v1::Mode::Tcc,
    };
    v1::BeginRequest { mode: mode.into(), xid: text(&body["xid"]), saga, message, ..Default::default() }
}

/// Begins by both interfaces; both refuse with this code, and the words are in the problem's detail.
async fn refused(fixture: &Fixture, body: &Value, code: &str, words: &str) {
    let answer = fixture.post("/v1/transactions", body).await;
    assert_eq!(answer.code(), code, "{:.300}: {answer:?}", body.to_string());
    assert!(answer.text("detail").contains(words), "{:.300}: {answer:?}", body.to_string());
    let status = fixture.grpc().await.begin(wire(body)).await.expect_err("refused");
    assert_eq!(grpc_code(&status), code, "{:.300}: {status:?}", body.to_string());
}

#[tokio::test]
async fn plans_of_sagas_that_cannot_be() {
    let fixture = Fixture::start().await;
    let many = |count: usize| -> Vec<Value> { (0..count).map(|n| step(&format!("s{n}"))).collect() };
    let pivot = |name| with(step(name), json!({ "role": "pivot", "compensate": null }));
    let forward = |name| with(step(name), json!({ "role": "forward_only", "compensate": null }));
    let root = |step| with(step, json!({ "after": [] }));
    let too_many = Limits::STEPS_MAX + 1;
    for (steps, words) in [
        (vec![], "at least one step"),
        (many(too_many), "at most 1000 steps"),
        (vec![step("a"), step("a")], "two steps are named a"),
        (vec![with(step("a"), json!({ "after": ["b"] })), step("b")], "cycle"),
        (vec![with(step("a"), json!({ "after": ["a"] }))], "cycle"),
        (vec![with(step("a"), json!({ "after": ["nobody"] }))], "nobody, which is no step"),
        (vec![with(step("a"), json!({ "role": "pivot" }))], "would never be called"),
        (vec![with(step("a"), json!({ "role": "forward_only" }))], "would never be called"),
        (vec![pivot("a"), pivot("b")], "at most one pivot"),
        // Past the pivot nothing may turn back (protocol H14).
        (vec![pivot("a"), step("b")], "step b does not come before the pivot"),
        (vec![pivot("a"), root(step("b"))], "step b does not come before the pivot"),
        (vec![forward("a"), step("b")], "step b can refuse, and comes after a"),
        (vec![with(step("a"), json!({ "timeout_ms": 600_001 }))], "at most 600 s"),
        (vec![with(step("a"), json!({ "retry": { "initial_ms": 1_u64 << 40 } }))], "at most 31 days"),
    ] {
        refused(&fixture, &saga(&steps), "invalid_plan", words).await;
    }
    refused(&fixture, &json!({ "mode": "saga", "steps": [step("")] }), "invalid_name", "name").await;
    refused(&fixture, &saga(&[with(step("a"), json!({ "after": ["\u{0}"] }))]), "invalid_name", "after")
        .await;
    let ftp = with(step("a"), json!({ "action": { "url": "ftp://x/y" } }));
    refused(&fixture, &saga(&[ftp]), "invalid_target", "step a: action").await;
    let far = with(step("a"), json!({ "compensate": { "url": "http://10.0.0.1/" } }));
    refused(&fixture, &saga(&[far]), "target_not_allowed", "10.0.0.1").await;
    let large = with(step("a"), json!({ "payload": "x".repeat(Limits::PAYLOAD_BYTES_MAX) }));
    refused(&fixture, &saga(&[large]), "payload_too_large", "1048576").await;
    let half = "x".repeat(Limits::PAYLOAD_BYTES_MAX / 2);
    let steps: Vec<_> = many(9).into_iter().map(|step| with(step, json!({ "payload": half }))).collect();
    refused(&fixture, &saga(&steps), "message_too_large", "larger").await;
    let list = fixture.get("/v1/transactions").await;
    assert_eq!(list.body["transactions"], json!([]), "something began");
}

#[tokio::test]
async fn plans_of_messages_that_cannot_be() {
    let fixture = Fixture::start().await;
    let delivery = |key: &str| json!({ "key": key, "url": URL });
    let ask = json!({ "url": URL });
    let many: Vec<Value> = (0..=Limits::DELIVERIES_MAX).map(|n| delivery(&format!("d{n}"))).collect();
    for (fields, words) in [
        (json!({ "deliver": [], "submit": true }), "at least one receiver"),
        (json!({ "deliver": many, "submit": true }), "at most 100 deliveries"),
        (
            json!({ "deliver": [delivery("a"), delivery("a")], "submit": true }),
            "two deliveries have the key a",
        ),
        // Nobody could say whether it is to be delivered.
        (json!({ "deliver": [delivery("a")] }), "names a check_back target"),
        (json!({ "deliver": [delivery("a")], "submit": false }), "names a check_back target"),
        (json!({ "deliver": [delivery("sender")], "check_back": ask }), "sender"),
    ] {
        refused(&fixture, &message(fields), "invalid_plan", words).await;
    }
    let nowhere = message(json!({ "deliver": [{ "key": "a" }], "submit": true }));
    let answer = fixture.post("/v1/transactions", &nowhere).await;
    assert_eq!(answer.code(), "invalid_target");
    let status = fixture.grpc().await.begin(wire(&nowhere)).await.expect_err("no target");
    assert_eq!(grpc_code(&status), "invalid_plan");
    let far = json!({ "deliver": [{ "key": "a", "url": "http://10.0.0.1/" }], "submit": true });
    refused(&fixture, &message(far), "target_not_allowed", "10.0.0.1").await;
    let far = json!({ "deliver": [delivery("a")], "check_back": { "url": "http://10.0.0.1/" } });
    refused(&fixture, &message(far), "target_not_allowed", "10.0.0.1").await;
    let list = fixture.get("/v1/transactions").await;
    assert_eq!(list.body["transactions"], json!([]), "something began");
}

#[tokio::test]
async fn plans_under_the_wrong_mode() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let steps = json!([step("a")]);
    let deliver = json!([{ "key": "a", "url": URL }]);
    for (body, words) in [
        (json!({ "mode": "tcc", "steps": steps }), "steps belong to mode saga"),
        (json!({ "mode": "message", "steps": steps, "deliver": deliver }), "steps belong to mode saga"),
        (json!({ "mode": "saga", "deliver": deliver, "steps": steps }), "belong to mode message"),
        (json!({ "mode": "two_phase", "deliver": deliver }), "belong to mode message"),
        (json!({ "mode": "tcc", "submit": true }), "belong to mode message"),
        (json!({ "mode": "saga", "check_back": { "url": URL }, "steps": steps }), "belong to mode message"),
    ] {
        let answer = fixture.post("/v1/transactions", &body).await;
        assert_eq!(answer.code(), "invalid_mode", "{body}");
        assert!(answer.text("detail").contains(words), "{answer:?}");
    }
    for (body, words) in [
        (json!({ "mode": "saga" }), "at least one step"),
        (json!({ "mode": "message", "submit": true }), "at least one receiver"),
    ] {
        let answer = fixture.post("/v1/transactions", &body).await;
        assert_eq!(answer.code(), "invalid_plan", "{body}");
        assert!(answer.text("detail").contains(words), "{answer:?}");
    }
    let (saga, message) =
        (wire(&json!({ "steps": steps })).saga, wire(&json!({ "deliver": deliver })).message);
    for (mode, saga, message) in [
        (v1::Mode::Tcc, saga.clone(), None),
        (v1::Mode::TwoPhase, None, message.clone()),
        (v1::Mode::Saga, None, None),
        (v1::Mode::Saga, None, message.clone()),
        (v1::Mode::Saga, saga.clone(), message),
        (v1::Mode::Message, saga, None),
        (v1::Mode::Message, None, None),
    ] {
        let request = v1::BeginRequest { mode: mode.into(), saga, message, ..Default::default() };
        assert_eq!(grpc_code(&client.begin(request).await.expect_err("refused")), "invalid_plan", "{mode:?}");
    }
}

#[tokio::test]
async fn fields_of_plans_that_do_not_exist_or_are_of_another_type() {
    let fixture = Fixture::start().await;
    let of_step = |fields| saga(&[with(step("a"), fields)]);
    for (body, hint) in [
        (of_step(json!({ "compensation": {} })), "unknown field `compensation`"),
        (of_step(json!({ "retry": { "initial": 5 } })), "unknown field `initial`"),
        (of_step(json!({ "retry": { "give_up_after": -1 } })), "expected u32"),
        (of_step(json!({ "after": "b" })), "expected a sequence"),
        (of_step(json!({ "action": null })), "missing field `action`"),
        (json!({ "mode": "saga", "steps": {} }), "expected a sequence"),
        (json!({ "mode": "message", "deliver": [{ "url": URL, "to": "x" }] }), "unknown field `to`"),
        (json!({ "mode": "message", "submit": "yes" }), "expected a boolean"),
        (json!({ "mode": "saga", "wait": "soon" }), "unknown variant `soon`"),
    ] {
        let answer = fixture.post("/v1/transactions", &body).await;
        assert_eq!((answer.code().as_str(), answer.status), ("invalid_request", 400), "{body}");
        assert!(answer.text("detail").contains(hint), "{body}: {answer:?}");
    }
    let answer = fixture.post("/v1/transactions", &of_step(json!({ "role": "middle" }))).await;
    assert_eq!(answer.code(), "invalid_plan");
    assert!(answer.text("detail").contains("one of compensatable, pivot, forward_only"), "{answer:?}");
    let answer = fixture.post("/v1/transactions", &of_step(json!({ "timeout_ms": 0 }))).await;
    assert_eq!(answer.code(), "invalid_timeout");
}

/// Protocol M1: with its plan, not with its name alone.
#[tokio::test]
async fn m1_a_repeated_begin_is_the_same_and_another_plan_is_not() {
    const XID: &str = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let fixture = Fixture::start().await;
    let plan = |payload: u32| {
        let steps = [with(step("a"), json!({ "payload": payload })), step("b")];
        with(saga(&steps), json!({ "xid": XID }))
    };
    for _ in 0..2 {
        let answer = fixture.post("/v1/transactions", &plan(1)).await;
        assert_eq!((answer.status, answer.text("xid").as_str()), (201, XID), "{answer:?}");
        let begun = fixture.grpc().await.begin(wire(&plan(1))).await;
        assert!(begun.is_ok(), "both interfaces say the same plan: {begun:?}");
    }
    refused(&fixture, &plan(2), "xid_reused", "another").await;
    let shorter = with(saga(&[with(step("a"), json!({ "payload": 1 }))]), json!({ "xid": XID }));
    refused(&fixture, &shorter, "xid_reused", "another").await;
}
