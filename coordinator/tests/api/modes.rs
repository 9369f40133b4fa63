//! Every mode by HTTP: what participants are told, and what a look shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use http::StatusCode;
use serde_json::{Value, json};
use unanimity_proto::v1;

use crate::support::{ANY_PORT, Answer, Fixture};

/// A participant whose answer depends on the path, and that remembers its calls in order.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Script {
    async fn start() -> (Self, String) {
        let script = Self::default();
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let routes = Router::new().route("/{path}", post(play)).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (script, url)
    }

    fn answer(&self, path: &str, status: u16, body: &str) {
        self.answers.lock().expect("answers").insert(path.to_owned(), (status, body.to_owned()));
    }

    fn paths(&self) -> Vec<String> {
        self.calls.lock().expect("calls").iter().map(|(path, _)| path.clone()).collect()
    }

    fn last(&self, path: &str) -> Value {
        let calls = self.calls.lock().expect("calls");
        calls.iter().rev().find(|(called, _)| called == path).expect("it was called").1.clone()
    }
}

async fn play(
    State(script): State<Script>,
    Path(path): Path<String>,
    body: axum::Json<Value>,
) -> (StatusCode, String) {
    let (status, text) =
        script.answers.lock().expect("answers").get(&path).cloned().unwrap_or((200, String::new()));
    script.calls.lock().expect("calls").push((path, body.0));
    (StatusCode::from_u16(status).expect("a status"), text)
}

impl Fixture {
    async fn ends(&self, xid: &str, status: &str) -> Answer {
        let view = self.get(&format!("/v1/transactions/{xid}?wait=finished&wait_ms=20000")).await;
        assert_eq!(view.text("status"), status, "{view:?}");
        view
    }
}

fn step(url: &str, name: &str) -> Value {
    json!({ "name": name, "action": { "url": format!("{url}/{name}") },
            "compensate": { "url": format!("{url}/undo-{name}") }, "payload": { "for": name } })
}

fn statuses(view: &Answer) -> Vec<String> {
    let branches = view.body["branches"].as_array().expect("branches");
    branches.iter().map(|branch| branch["status"].as_str().expect("a status").to_owned()).collect()
}

#[tokio::test]
async fn i7_a_saga_passes_results_on_and_commits() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    script.answer("flight", 200, "{\"seat\": \"7A\"}");
    script.answer("hotel", 200, "room seven");
    let mut hotel = step(&url, "hotel");
    hotel["after"] = json!([]);
    let mut car = step(&url, "car");
    car["after"] = json!(["flight", "hotel"]);
    car["role"] = json!("pivot");
    car.as_object_mut().expect("an object").remove("compensate");
    let mut mail = step(&url, "mail");
    mail["role"] = json!("forward_only");
    mail.as_object_mut().expect("an object").remove("compensate");
    let body = json!({ "mode": "saga", "name": "trip", "steps": [step(&url, "flight"), hotel, car, mail], "wait": "finished" });
    let begun = fixture.post("/v1/transactions", &body).await;
    assert_eq!((begun.status, begun.text("status").as_str()), (201, "committed"), "{begun:?}");
    let call = script.last("car");
    assert_eq!(call["inputs"], json!({ "flight": { "seat": "7A" }, "hotel": null }));
    assert_eq!(call["inputs_base64"], json!({ "hotel": "cm9vbSBzZXZlbg==" }));
    assert_eq!((&call["operation"], &call["payload"]), (&json!("action"), &json!({ "for": "car" })));
    let view = fixture.ends(&begun.text("xid"), "committed").await;
    assert_eq!(statuses(&view), ["done", "done", "done", "done"]);
    let shown: Vec<Value> = view.body["branches"]
        .as_array()
        .expect("branches")
        .iter()
        .map(|branch| {
            json!([branch["kind"], branch["role"], branch["after"], branch["result"], branch["parked"]])
        })
        .collect();
    assert_eq!(
        Value::from(shown),
        json!([
            ["step", "compensatable", [], { "seat": "7A" }, false],
            ["step", "compensatable", [], "room seven", false],
            ["step", "pivot", ["flight", "hotel"], null, false],
            ["step", "forward_only", ["car"], null, false],
        ])
    );
}

#[tokio::test]
async fn i7_a_saga_turns_back_in_reverse_order_with_what_its_steps_brought() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    script.answer("flight", 200, "{\"seat\": \"7A\"}");
    script.answer("car", 409, "no car left");
    let steps = [step(&url, "flight"), step(&url, "hotel"), step(&url, "car")];
    let begun = fixture
        .post("/v1/transactions", &json!({ "mode": "saga", "steps": steps, "wait": "finished" }))
        .await;
    assert_eq!(begun.text("status"), "aborted", "{begun:?}");
    assert_eq!(script.paths(), ["flight", "hotel", "car", "undo-hotel", "undo-flight"]);
    let undo = script.last("undo-flight");
    assert_eq!((&undo["operation"], &undo["result"]), (&json!("compensate"), &json!({ "seat": "7A" })));
    assert_eq!(script.last("undo-hotel")["inputs"], json!({ "flight": { "seat": "7A" } }));
    let view = fixture.ends(&begun.text("xid"), "aborted").await;
    assert_eq!(view.text("abort_reason"), "refused");
    assert_eq!(statuses(&view), ["compensated", "compensated", "refused"]);
    assert_eq!(view.body["branches"][2]["last_error"], "no car left");
}

/// A compensation that is refused is parked: shown with its reason, and mended by a retry.
#[tokio::test]
async fn a_parked_compensation_waits_for_somebody() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    script.answer("car", 409, "no car left");
    script.answer("undo-flight", 409, "the airline's desk is closed");
    let steps = [step(&url, "flight"), step(&url, "car")];
    let begun = fixture.post("/v1/transactions", &json!({ "mode": "saga", "steps": steps })).await;
    let xid = begun.text("xid");
    let parked = loop {
        let view = fixture.get(&format!("/v1/transactions/{xid}")).await;
        if view.body["branches"][0]["parked"] == true {
            break view;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(parked.body["attention"]["code"], "parked");
    assert_eq!(statuses(&parked), ["compensating", "refused"]);
    let listed = fixture.get("/v1/transactions?attention=true&mode=saga").await;
    assert_eq!(listed.body["transactions"][0]["xid"], xid);
    script.answer("undo-flight", 200, "");
    let by = json!({ "operator": "ada", "reason": "the desk is open" });
    assert_eq!(fixture.post(&format!("/v1/transactions/{xid}/retry"), &by).await.status, 200);
    let view = fixture.ends(&xid, "aborted").await;
    assert_eq!(statuses(&view), ["compensated", "refused"]);
    assert_eq!(view.body["branches"][0]["parked"], false);
}

#[tokio::test]
async fn two_phase_early_and_late_votes_meet_in_one_commit() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    script.answer("read", 200, "{\"vote\": \"read_only\"}");
    let target = |path: &str| json!({ "url": format!("{url}/{path}") });
    let begun = fixture.post("/v1/transactions", &json!({ "mode": "two_phase", "wait": "finished" })).await;
    assert_eq!(begun.text("status"), "active", "what its TM decides is not waited for");
    let xid = begun.text("xid");
    let path = format!("/v1/transactions/{xid}/branches");
    let (commit, rollback) = (target("commit"), target("rollback"));
    for body in [
        json!({ "key": "early", "commit": commit, "rollback": rollback }),
        json!({ "key": "late", "prepare": target("prepare"), "commit": commit, "rollback": rollback }),
        json!({ "key": "reader", "prepare": target("read"), "commit": commit, "rollback": rollback }),
        json!({ "key": "note", "deliver": target("deliver"), "payload": { "to": "ada" } }),
    ] {
        assert_eq!(fixture.post(&path, &body).await.status, 201, "{body}");
    }
    let body = json!({ "key": "early", "vote": "prepared" });
    assert_eq!(fixture.post(&format!("/v1/transactions/{xid}/vote"), &body).await.status, 200);
    let body = json!({ "wait": "finished" });
    let committed = fixture.post(&format!("/v1/transactions/{xid}/commit"), &body).await;
    assert_eq!(committed.text("status"), "committed", "{committed:?}");
    let view = fixture.ends(&xid, "committed").await;
    assert_eq!(statuses(&view), ["committed", "committed", "read_only", "delivered"]);
    let mut paths = script.paths();
    paths.sort();
    assert_eq!(paths, ["commit", "commit", "deliver", "prepare", "read"]);
    assert_eq!(script.last("deliver")["kind"], "message");
}

#[tokio::test]
async fn i10_a_message_is_delivered_after_its_submit_or_the_senders_word_only() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    let deliver = json!([{ "url": format!("{url}/mail"), "payload": 1 }, { "url": format!("{url}/sms"), "key": "sms" }]);
    let message = |ask: &str, timeout_ms: u64| {
        json!({ "mode": "message", "deliver": deliver, "timeout_ms": timeout_ms,
                "check_back": { "url": format!("{url}/{ask}") }, "check_back_payload": { "order": 7 } })
    };
    let xid = fixture.post("/v1/transactions", &message("ask", 30_000)).await.text("xid");
    assert!(script.paths().is_empty());
    let submitted =
        fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({ "wait": "finished" })).await;
    assert_eq!(submitted.text("status"), "committed", "{submitted:?}");
    let keys = (script.last("mail")["key"].clone(), script.last("sms")["key"].clone());
    assert_eq!(keys, (json!("deliver-1"), json!("sms")));
    let view = fixture.ends(&xid, "committed").await;
    assert_eq!(statuses(&view), ["answered", "delivered", "delivered"]);

    script.answer("yes", 200, "");
    let xid = fixture.post("/v1/transactions", &message("yes", 100)).await.text("xid");
    fixture.ends(&xid, "committed").await;
    let asked = script.last("yes");
    assert_eq!(
        (&asked["operation"], &asked["payload"], &asked["kind"]),
        (&json!("check_back"), &json!({ "order": 7 }), &json!("sender"))
    );

    script.answer("no", 409, "rolled back");
    let before = script.paths().len();
    let xid = fixture.post("/v1/transactions", &message("no", 100)).await.text("xid");
    let view = fixture.ends(&xid, "aborted").await;
    assert_eq!(statuses(&view), ["answered", "discarded", "discarded"]);
    assert_eq!(script.paths()[before..], ["no"]);

    let body = json!({ "mode": "message", "deliver": deliver, "submit": true, "wait": "finished" });
    let begun = fixture.post("/v1/transactions", &body).await;
    assert_eq!(begun.text("status"), "committed", "{begun:?}");
}

#[tokio::test]
async fn h7_a_lock_is_held_until_every_branch_is_settled() {
    let fixture = Fixture::start().await;
    let (_, url) = Script::start().await;
    let (first, second) = (fixture.begin().await, fixture.begin().await);
    let target = json!({ "url": format!("{url}/x") });
    let locking = |key: &str| json!({ "key": key, "confirm": target, "cancel": target, "lock_keys": ["sku-7", "sku-8"] });
    let path = |xid: &str| format!("/v1/transactions/{xid}/branches");
    assert_eq!(fixture.post(&path(&first), &locking("a")).await.status, 201);
    assert_eq!(fixture.post(&path(&first), &locking("b")).await.status, 201, "the same xid again counts");
    let conflict = fixture.post(&path(&second), &locking("a")).await;
    assert_eq!((conflict.code().as_str(), conflict.status), ("lock_conflict", 409));
    assert_eq!((conflict.text("xid"), conflict.text("holder")), (second.clone(), first.clone()));
    assert!(conflict.text("detail").contains(&first), "it names the holder: {conflict:?}");
    let view = fixture.get(&format!("/v1/transactions/{first}")).await;
    assert_eq!(view.body["branches"][1]["lock_keys"], json!(["sku-7", "sku-8"]));
    let abort =
        fixture.post(&format!("/v1/transactions/{first}/abort"), &json!({ "wait": "finished" })).await;
    assert_eq!(abort.text("status"), "aborted");
    let mut patient = locking("a");
    patient["lock_wait_ms"] = json!(20_000);
    let taken = fixture.post(&path(&second), &patient).await;
    assert_eq!(taken.status, 201, "{taken:?}");
}

/// gRPC shows the same as HTTP.
#[tokio::test]
async fn both_interfaces_show_the_same_steps() {
    let fixture = Fixture::start().await;
    let (script, url) = Script::start().await;
    script.answer("flight", 200, "7A");
    let steps = [step(&url, "flight"), step(&url, "hotel")];
    let xid = fixture
        .post("/v1/transactions", &json!({ "mode": "saga", "steps": steps, "wait": "finished" }))
        .await
        .text("xid");
    let request = v1::GetTransactionRequest { xid, ..Default::default() };
    let view = fixture.grpc().await.get_transaction(request).await.expect("known").into_inner();
    let [flight, hotel] = &view.branches[..] else { panic!("two steps: {view:?}") };
    assert_eq!(
        (flight.result.as_str(), flight.role(), flight.kind()),
        ("7A", v1::StepRole::Compensatable, v1::BranchKind::Step)
    );
    assert_eq!((&hotel.after[..], hotel.parked), (&["flight".to_owned()][..], false));
}
