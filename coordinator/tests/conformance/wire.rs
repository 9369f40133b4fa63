//! The kit sends what the coordinator sends: the same headers and members, of the same types.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use unanimity_coordinator::Node;
use unanimity_coordinator::delivery::AllowList;

use crate::command::check;
use crate::toy::{AMOUNT, Fault, Toy};

/// The confirm among a toy's calls: its headers that say something, and its members with their types.
fn confirm(toy: &Toy) -> (BTreeMap<String, String>, BTreeMap<String, &'static str>) {
    let calls = toy.calls.lock().expect("no holder panics");
    let (_, headers, body) =
        calls.iter().find(|(_, _, body)| body["operation"] == "confirm").expect("a confirm");
    let named = |name: &&str| (name.to_string(), headers[*name].to_str().expect("text").to_owned());
    let mut headers: BTreeMap<_, _> =
        ["content-type", "user-agent", "unanimity-xid"].iter().map(named).collect();
    assert_eq!(headers.remove("unanimity-xid").as_deref(), body["xid"].as_str());
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let members =
        body.as_object().expect("an object").iter().map(|(name, value)| (name.clone(), kind(value)));
    (headers, members.collect())
}

#[tokio::test]
async fn the_kit_calls_as_the_coordinator_does() {
    let real = Toy::start(Fault::None).await;
    let node = Node::builder()
        .memory_with_partitions(1)
        .listen("127.0.0.1:0".parse().expect("an address"))
        .allow_callbacks(AllowList::loopback())
        .start()
        .await
        .expect("started");
    node.ready(Duration::from_secs(10)).await.expect("ready");
    let base = format!("{}/v1/transactions", node.url().expect("it listens"));
    let http = reqwest::Client::new();
    let post = async |url: String, body: Value| -> Value {
        http.post(url).json(&body).send().await.expect("sent").json().await.expect("JSON")
    };
    let begun = post(base.clone(), json!({ "mode": "tcc", "name": "wire" })).await;
    let xid = begun["xid"].as_str().expect("an xid");
    let payload = json!({ "amount": AMOUNT });
    let branch = json!({ "key": "a", "payload": payload, "confirm": { "url": real.url }, "cancel": { "url": real.url } });
    post(format!("{base}/{xid}/branches"), branch).await;
    post(real.url.clone(), json!({ "xid": xid, "key": "a", "operation": "try", "payload": payload })).await;
    let end = post(format!("{base}/{xid}/commit"), json!({ "votes": ["a"], "wait": "finished" })).await;
    assert_eq!(end["status"], "committed", "{end}");

    let kit = Toy::start(Fault::None).await;
    check(&kit, "tcc", false).await;
    assert_eq!(confirm(&kit), confirm(&real));
    tokio::time::timeout(Duration::from_secs(45), node.shutdown()).await.expect("it stops in time");
}
