//! Bodies, paths and queries of the HTTP interface, through a whole node: an answer of the right shape comes,
//! whatever was sent, and the node lives on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use unanimity_coordinator::Node;
use unanimity_coordinator::delivery::AllowList;

use crate::cases;

struct Server {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    xid: String,
    _node: Node,
}

/// One node for all cases, which lives as long as the tests.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
        let (node, url, xid) = runtime.block_on(async {
            let node = Node::builder()
                .memory_with_partitions(2)
                .listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
                .allow_callbacks(AllowList::loopback())
                .start()
                .await
                .expect("started");
            node.ready(Duration::from_secs(30)).await.expect("ready");
            let url = node.url().expect("it listens");
            let begun =
                client.post(format!("{url}/v1/transactions")).json(&json!({ "mode": "tcc" })).send().await;
            let begun: Value =
                serde_json::from_str(&begun.expect("an answer").text().await.expect("a body")).expect("JSON");
            let xid = begun["xid"].as_str().expect("an xid").to_owned();
            (node, url, xid)
        });
        Server { runtime, client, url, xid, _node: node }
    })
}

/// Any JSON, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}|[\\x00-\\x1f]{1,3}|http://127.0.0.1:9/[a-z]{0,3}|tcc|saga|message|two_phase"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,9}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Bodies that are right.
fn right() -> impl Strategy<Value = Value> {
    let step = json!({"name": "a", "action": {"url": "http://127.0.0.1:9/do"}, "compensate": {"url": "http://127.0.0.1:9/undo"}});
    prop_oneof![
        Just(json!({"mode": "tcc", "name": "order", "timeout_ms": 5000})),
        Just(json!({"mode": "two_phase", "timeout_ms": 5000})),
        Just(json!({"mode": "saga", "steps": [step]})),
        Just(
            json!({"mode": "message", "deliveries": [{"key": "m", "target": {"url": "http://127.0.0.1:9/mail"}}], "submit": true})
        ),
        Just(
            json!({"key": "k", "confirm": {"url": "http://127.0.0.1:9/c"}, "cancel": {"url": "http://127.0.0.1:9/x"}, "payload": {"n": 1}})
        ),
        Just(json!({"key": "k", "vote": "prepared"})),
        Just(json!({"votes": ["k"], "wait": "decided"})),
        Just(json!({"operator": "ada", "reason": "so", "resolve_as": "confirmed"})),
        Just(json!({"xids": ["0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f"]})),
    ]
}

/// A right body of which one member is another value.
fn near_right() -> impl Strategy<Value = Value> {
    (right(), any::<prop::sample::Index>(), any_json(), "[a-z_]{1,9}").prop_map(
        |(mut body, at, value, name)| {
            if let Some(members) = body.as_object_mut() {
                let place = at.index(members.len() + 1);
                let name = members.keys().nth(place).cloned().unwrap_or(name);
                members.insert(name, value);
            }
            body
        },
    )
}

fn raw() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => any_json().prop_map(|body| body.to_string()),
        5 => near_right().prop_map(|body| body.to_string()),
        1 => "\\PC{0,60}",
        1 => (near_right(), any::<prop::sample::Index>()).prop_map(|(body, cut)| {
            let text = body.to_string();
            text.chars().take(cut.index(text.chars().count() + 1)).collect()
        }),
    ]
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn bodies(body in raw(), route in 0usize..9, own in any::<bool>(), path in "[A-Za-z0-9%_-]{1,40}", cursor in "[0-9a-f]{0,52}|[ -~]{0,20}") {
        let server = server();
        let xid = if own { server.xid.clone() } else { path.clone() };
        let page = format!("/v1/transactions?cursor={}&limit={path}", cursor.replace(['#', '&', ' ', '%'], ""));
        let (route, looks) = match route {
            0 => ("/v1/transactions".to_owned(), false),
            1 => (format!("/v1/transactions/{xid}/branches"), false),
            2 => (format!("/v1/transactions/{path}/vote"), false),
            3 => (format!("/v1/transactions/{path}/commit"), false),
            4 => (format!("/v1/transactions/{path}/abort"), false),
            5 => (format!("/v1/transactions/{xid}/branches/{path}/resolve"), false),
            6 => ("/v1/inquiries".to_owned(), false),
            7 => (format!("/v1/partitions/{path}/accept-loss"), false),
            _ => (page, true),
        };
        let url = format!("{}{route}", server.url);
        let request = if looks { server.client.get(&url) } else { server.client.post(&url) };
        let request = request.header("content-type", "application/json").body(body);
        let (status, kind, text) = server.runtime.block_on(async {
            let answer = request.send().await.expect("an answer");
            let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
            (answer.status().as_u16(), kind, answer.text().await.expect("a body"))
        });
        prop_assert!(status < 500, "{} {}: {}", status, route, text);
        if status >= 400 {
            prop_assert_eq!(kind.as_deref(), Some("application/problem+json"), "{}: {}", route, text);
        }
        let answer: Result<Value, _> = serde_json::from_str(&text);
        prop_assert!(answer.is_ok(), "{} is no JSON: {}", route, text);
    }
}
