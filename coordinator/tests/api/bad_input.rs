//! Every bad input that concerns the interfaces: the same code by HTTP and by gRPC.

use serde_json::{Value, json};
use unanimity_proto::v1;
use unanimity_types::{ErrorCode, Limits};

use crate::support::{Callback, Fixture, grpc_code};

const UNKNOWN: &str = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";

fn status_of(code: &str) -> u16 {
    code.parse::<ErrorCode>().expect("a code").http_status()
}

fn begin(xid: &str, name: &str, timeout_ms: u64) -> v1::BeginRequest {
    v1::BeginRequest {
        mode: v1::Mode::Tcc as i32,
        name: name.to_owned(),
        xid: xid.to_owned(),
        timeout_ms,
        ..Default::default()
    }
}

fn targets(confirm: &str, cancel: &str) -> Option<v1::BranchTargets> {
    let target = |url: &str| Some(v1::Target { kind: Some(v1::target::Kind::Url(url.to_owned())) });
    Some(v1::BranchTargets { confirm: target(confirm), cancel: target(cancel), ..Default::default() })
}

fn register(xid: &str, key: &str, url: &str, payload: usize) -> v1::RegisterBranchRequest {
    v1::RegisterBranchRequest {
        xid: xid.to_owned(),
        key: key.to_owned(),
        targets: targets(url, url),
        payload: vec![b' '; payload].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn begins_that_cannot_be() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let month_ms = u64::try_from(Limits::TIMEOUT_MAX.as_millis()).expect("fits");
    let long = "n".repeat(129);
    for (code, body, request) in [
        ("invalid_xid", json!({ "mode": "tcc", "xid": "x" }), begin("x", "", 0)),
        (
            "invalid_xid",
            json!({ "mode": "tcc", "xid": "00000000-0000-0000-0000-000000000000" }),
            begin("00000000-0000-0000-0000-000000000000", "", 0),
        ),
        ("invalid_name", json!({ "mode": "tcc", "name": " " }), begin("", " ", 0)),
        ("invalid_name", json!({ "mode": "tcc", "name": "a\u{0}b" }), begin("", "a\u{0}b", 0)),
        ("invalid_name", json!({ "mode": "tcc", "name": "a\u{202e}b" }), begin("", "a\u{202e}b", 0)),
        ("invalid_name", json!({ "mode": "tcc", "name": long }), begin("", &long, 0)),
        (
            "invalid_timeout",
            json!({ "mode": "tcc", "timeout_ms": month_ms + 1 }),
            begin("", "", month_ms + 1),
        ),
        ("invalid_mode", json!({ "mode": "at" }), v1::BeginRequest { mode: 77, ..Default::default() }),
        ("invalid_mode", json!({ "mode": "" }), v1::BeginRequest::default()),
    ] {
        let answer = fixture.post("/v1/transactions", &body).await;
        assert_eq!((answer.code().as_str(), answer.status), (code, status_of(code)), "{body}");
        assert_eq!(grpc_code(&client.begin(request).await.expect_err("refused")), code, "{body}");
    }
    let zero = fixture.post("/v1/transactions", &json!({ "mode": "tcc", "timeout_ms": 0 })).await;
    assert_eq!(zero.code(), "invalid_timeout");
    let unknown = fixture.post("/v1/transactions", &json!({ "mode": "Saga" })).await;
    assert_eq!(unknown.code(), "invalid_mode");
    assert!(unknown.text("detail").contains("one of tcc, saga, two_phase, message"), "{unknown:?}");
    // Hostile, but harmless as text.
    for name in ["'; drop table transactions; --", "<script>alert(1)</script>", "../../etc/passwd"] {
        assert_eq!(
            fixture.post("/v1/transactions", &json!({ "mode": "tcc", "name": name })).await.status,
            201
        );
    }
}

#[tokio::test]
async fn bodies_that_are_none() {
    let fixture = Fixture::start().await;
    for (content_type, body, hint) in [
        ("application/json", "{", "body: EOF"),
        ("application/json", "[]", "body: "),
        ("application/json", r#"{"mode": "tcc", "nmae": "x"}"#, "unknown field `nmae`"),
        ("application/json", r#"{"mode": 7}"#, "expected a string"),
        ("application/json", r#"{"mode": "tcc", "timeout_ms": "soon"}"#, "expected u64"),
        ("application/json", r#"{"mode": "tcc", "timeout_ms": -1}"#, "expected u64"),
        ("application/json", r#"{"mode": "tcc", "mode": "tcc"}"#, "duplicate field `mode`"),
        ("application/json", r#"{"name": "x"}"#, "missing field `mode`"),
        ("application/json", "\u{feff}{}", "body: "),
        ("text/plain", r#"{"mode": "tcc"}"#, "content-type: application/json"),
        ("application/x-www-form-urlencoded", "mode=tcc", "content-type: application/json"),
    ] {
        let answer = fixture.post_raw("/v1/transactions", content_type, body).await;
        assert_eq!((answer.code().as_str(), answer.status), ("invalid_request", 400), "{body}");
        assert!(answer.text("detail").contains(hint), "{body}: {answer:?}");
    }
    let invalid_utf8 =
        fixture.post_raw("/v1/transactions", "application/json", b"{\"mode\": \"\xff\"}".to_vec()).await;
    assert_eq!(invalid_utf8.code(), "invalid_request");
    for path in ["?status=done", "?older_than=soon", "?limit=501", "?limit=x", "?cursor=zz", "?statsu=active"]
    {
        assert_eq!(fixture.get(&format!("/v1/transactions{path}")).await.code(), "invalid_request", "{path}");
    }
    let deep = format!("{{\"mode\": {}", "[".repeat(100_000));
    assert_eq!(
        fixture.post_raw("/v1/transactions", "application/json", deep).await.code(),
        "invalid_request"
    );
}

#[tokio::test]
async fn xids_that_are_none_or_unknown() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    for xid in ["x", "00000000-0000-0000-0000-000000000000", "%00", "..%2f..%2fetc", "%7B0191e7a4%7D", "%FF"]
    {
        for (path, is_get) in
            [("", true), ("/commit", false), ("/abort", false), ("/branches", false), ("/retry", false)]
        {
            let path = format!("/v1/transactions/{xid}{path}");
            let answer =
                if is_get { fixture.get(&path).await } else { fixture.post(&path, &json!({})).await };
            assert_eq!(answer.code(), "invalid_xid", "{path}");
        }
    }
    let request = v1::GetTransactionRequest { xid: "x".to_owned(), ..Default::default() };
    assert_eq!(grpc_code(&client.get_transaction(request).await.expect_err("malformed")), "invalid_xid");

    let answer = fixture.get(&format!("/v1/transactions/{UNKNOWN}")).await;
    assert_eq!((answer.code().as_str(), answer.status), ("transaction_not_found", 404));
    assert_eq!(answer.text("xid"), UNKNOWN);
    let request = v1::GetTransactionRequest { xid: UNKNOWN.to_owned(), ..Default::default() };
    assert_eq!(
        grpc_code(&client.get_transaction(request).await.expect_err("unknown")),
        "transaction_not_found"
    );
    let by = json!({ "operator": "ada", "reason": "why" });
    assert_eq!(
        fixture.post(&format!("/v1/transactions/{UNKNOWN}/retry"), &by).await.code(),
        "transaction_not_found"
    );
    // A commit of an unknown xid is itself an abort (protocol C2).
    let committed = fixture.post(&format!("/v1/transactions/{UNKNOWN}/commit"), &json!({})).await;
    assert_eq!(
        (committed.code().as_str(), committed.text("transaction_status").as_str()),
        ("already_decided", "aborted")
    );
    assert_eq!(committed.text("abort_reason"), "presumed");
}

#[tokio::test]
async fn what_comes_after_the_decision() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let stock = Callback::start().await;
    let (committed, aborted) = (fixture.begin().await, fixture.begin().await);
    let empty = json!({ "wait": "finished" });
    assert_eq!(fixture.post(&format!("/v1/transactions/{committed}/commit"), &empty).await.status, 200);
    assert_eq!(fixture.post(&format!("/v1/transactions/{aborted}/abort"), &empty).await.status, 200);

    let late = fixture.branch(&committed, "late", &stock).await;
    assert_eq!(
        (late.code().as_str(), late.text("transaction_status").as_str()),
        ("already_decided", "committed")
    );
    let status =
        client.register_branch(register(&aborted, "late", &stock.url("x"), 0)).await.expect_err("late");
    assert_eq!(grpc_code(&status), "already_decided");
    let detail = unanimity_proto::error_from_status(&status).expect("a detail");
    assert_eq!((detail.status, detail.xid), (v1::Status::Aborted as i32, aborted.clone()));

    let reverse = fixture.post(&format!("/v1/transactions/{aborted}/commit"), &json!({})).await;
    assert_eq!(
        (reverse.code().as_str(), reverse.text("transaction_status").as_str()),
        ("already_decided", "aborted")
    );
    let reverse = fixture.post(&format!("/v1/transactions/{committed}/abort"), &json!({})).await;
    assert_eq!(
        (reverse.code().as_str(), reverse.text("transaction_status").as_str()),
        ("already_decided", "committed")
    );
    let request = v1::CommitRequest { xid: aborted, ..Default::default() };
    assert_eq!(grpc_code(&client.commit(request).await.expect_err("aborted")), "already_decided");
    let request = v1::AbortRequest { xid: committed, ..Default::default() };
    assert_eq!(grpc_code(&client.abort(request).await.expect_err("committed")), "already_decided");
}

#[tokio::test]
async fn ids_in_use_with_another_body() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let stock = Callback::start().await;
    let first = json!({ "mode": "tcc", "name": "one", "xid": UNKNOWN });
    assert_eq!(fixture.post("/v1/transactions", &first).await.status, 201);
    let other = json!({ "mode": "tcc", "name": "two", "xid": UNKNOWN });
    assert_eq!(fixture.post("/v1/transactions", &other).await.code(), "xid_reused");
    assert_eq!(grpc_code(&client.begin(begin(UNKNOWN, "two", 0)).await.expect_err("reused")), "xid_reused");

    assert_eq!(fixture.branch(UNKNOWN, "k", &stock).await.status, 201);
    let path = format!("/v1/transactions/{UNKNOWN}/branches");
    let other =
        json!({ "key": "k", "confirm": { "url": stock.url("x") }, "cancel": { "url": stock.url("y") } });
    assert_eq!(fixture.post(&path, &other).await.code(), "branch_key_reused");
    let status =
        client.register_branch(register(UNKNOWN, "k", &stock.url("x"), 0)).await.expect_err("reused");
    assert_eq!(grpc_code(&status), "branch_key_reused");
}

#[tokio::test]
async fn targets_that_are_none_or_not_allowed() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    let path = format!("/v1/transactions/{xid}/branches");
    let ok = json!({ "url": "http://127.0.0.1:1/x" });
    let invalid: [(Value, &str); 8] = [
        (json!({}), "invalid_target"),
        (json!({ "confirm": ok }), "invalid_target"),
        (json!({ "participant": "p" }), "invalid_target"),
        (json!({ "participant": "p", "operation": "o", "confirm": ok, "cancel": ok }), "invalid_target"),
        (json!({ "confirm": {}, "cancel": ok }), "invalid_target"),
        (json!({ "confirm": { "url": "ftp://x/y" }, "cancel": ok }), "invalid_target"),
        (json!({ "participant": "", "operation": "o" }), "invalid_name"),
        (json!({ "key": "\u{0}", "confirm": ok, "cancel": ok }), "invalid_name"),
    ];
    for (body, code) in invalid {
        assert_eq!(fixture.post(&path, &body).await.code(), code, "{body}");
    }
    for url in [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "https://example.com/hook",
        "http://127.0.0.1@example.com/",
    ] {
        let body = json!({ "confirm": { "url": url }, "cancel": { "url": url } });
        let answer = fixture.post(&path, &body).await;
        assert_eq!((answer.code().as_str(), answer.status), ("target_not_allowed", 403), "{url}");
        let status = client.register_branch(register(&xid, "", url, 0)).await.expect_err("not allowed");
        assert_eq!(grpc_code(&status), "target_not_allowed", "{url}");
    }
    let request = v1::RegisterBranchRequest { xid: xid.clone(), ..Default::default() };
    assert_eq!(grpc_code(&client.register_branch(request).await.expect_err("no targets")), "invalid_target");
    let foreign = v1::RegisterBranchRequest {
        log_id: UNKNOWN.to_owned(),
        ..register(&xid, "", "http://127.0.0.1:1/x", 0)
    };
    assert_eq!(grpc_code(&client.register_branch(foreign).await.expect_err("another log")), "not_mine");
}

#[tokio::test]
async fn payloads_and_messages_at_their_limits() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    let url = "http://127.0.0.1:1/x";
    let path = format!("/v1/transactions/{xid}/branches");
    // Two quotes are part of the JSON text that is kept.
    for (payload, code) in
        [(Limits::PAYLOAD_BYTES_MAX, None), (Limits::PAYLOAD_BYTES_MAX + 1, Some("payload_too_large"))]
    {
        let body = json!({ "confirm": { "url": url }, "cancel": { "url": url }, "payload": "x".repeat(payload - 2) });
        let answer = fixture.post(&path, &body).await;
        match code {
            None => assert_eq!(answer.status, 201, "{}", answer.raw),
            Some(code) => assert_eq!((answer.code().as_str(), answer.status), (code, 413)),
        }
        let answer = client.register_branch(register(&xid, "", url, payload)).await;
        assert_eq!(answer.err().map(|status| grpc_code(&status)), code.map(str::to_owned));
    }
    let huge = format!("{{\"mode\": \"{}\"}}", "x".repeat(Limits::MESSAGE_BYTES_MAX));
    let answer = fixture.post_raw("/v1/transactions", "application/json", huge).await;
    assert_eq!((answer.code().as_str(), answer.status), ("message_too_large", 413));
    let status = client
        .register_branch(register(&xid, "", url, Limits::MESSAGE_BYTES_MAX))
        .await
        .expect_err("too large");
    assert_eq!(grpc_code(&status), "message_too_large");
}

#[tokio::test]
async fn one_branch_too_many() {
    use futures::StreamExt as _;

    let fixture = Fixture::start().await;
    let client = fixture.grpc().await;
    let xid = fixture.begin().await;
    let codes: Vec<_> = futures::stream::iter(0..=Limits::BRANCHES_MAX)
        .map(|n| {
            let (mut client, request) =
                (client.clone(), register(&xid, &format!("b{n}"), "http://127.0.0.1:1/x", 0));
            async move { client.register_branch(request).await.err().map(|status| grpc_code(&status)) }
        })
        .buffer_unordered(256)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert_eq!(codes, ["too_many_branches"]);
    let url = "http://127.0.0.1:1/x";
    let body = json!({ "key": "one-more", "confirm": { "url": url }, "cancel": { "url": url } });
    let answer = fixture.post(&format!("/v1/transactions/{xid}/branches"), &body).await;
    assert_eq!((answer.code().as_str(), answer.status), ("too_many_branches", 422));
    let votes: Vec<String> = (0..=Limits::BRANCHES_MAX).map(|n| format!("b{n}")).collect();
    let answer = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({ "votes": votes })).await;
    assert_eq!(answer.code(), "too_many_branches");
    fixture.node.kill().await;
}

#[tokio::test]
async fn operators_who_do_not_say_who_or_why() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    for body in [
        json!({ "operator": "", "reason": "r" }),
        json!({ "operator": "ada", "reason": " " }),
        json!({ "operator": "ada", "reason": "x".repeat(Limits::REASON_BYTES_MAX + 1) }),
        json!({ "operator": "ada", "reason": "a\u{0}b" }),
        json!({ "operator": "ada" }),
    ] {
        for path in ["retry", "abort"] {
            let answer = fixture.post(&format!("/v1/transactions/{xid}/{path}"), &body).await;
            assert_eq!(answer.code(), "invalid_request", "{path} {body}");
        }
    }
    let request = v1::RetryTransactionRequest { xid: xid.clone(), ..Default::default() };
    assert_eq!(grpc_code(&client.retry_transaction(request).await.expect_err("nobody")), "invalid_request");
    let by = json!({ "resolve_as": "gone", "operator": "ada", "reason": "r" });
    assert_eq!(
        fixture.post(&format!("/v1/transactions/{xid}/branches/1/resolve"), &by).await.code(),
        "invalid_request"
    );
    let by = json!({ "resolve_as": "confirmed", "operator": "ada", "reason": "r" });
    assert_eq!(
        fixture.post(&format!("/v1/transactions/{xid}/branches/x/resolve"), &by).await.code(),
        "invalid_request"
    );
    let by = json!({ "operator": "ada", "reason": "r" });
    assert_eq!(fixture.post("/v1/partitions/99/accept-loss", &by).await.code(), "invalid_request");
    for partition in ["x", "-1", "65536", "%FF", "%00"] {
        let answer = fixture.post(&format!("/v1/partitions/{partition}/accept-loss"), &by).await;
        assert_eq!(answer.code(), "invalid_request", "{partition}");
    }
    let too_many: Vec<&str> = std::iter::repeat_n(UNKNOWN, Limits::INQUIRY_XIDS_MAX + 1).collect();
    assert_eq!(fixture.post("/v1/inquiries", &json!({ "xids": too_many })).await.code(), "invalid_request");
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist() {
    let fixture = Fixture::start().await;
    for path in ["/nope", "/v1", "/v1/transactions/x/y/z", "/v2/transactions", "/unanimity.v1.Nothing/Do"] {
        let answer = fixture.get(path).await;
        assert_eq!((answer.code().as_str(), answer.status), ("route_not_found", 404), "{path}");
    }
    let answer = fixture.http.delete(fixture.url("/v1/transactions")).send().await.expect("an answer");
    assert_eq!(answer.status(), 405);
    assert!(answer.headers().contains_key("allow"));
    let body: Value = answer.json().await.expect("a problem");
    assert_eq!(body["code"], "method_not_allowed");
    // A gRPC client is answered in its language.
    let answer = fixture
        .http
        .post(fixture.url("/unanimity.v1.Nothing/Do"))
        .header("content-type", "application/grpc")
        .send()
        .await
        .expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].to_str().ok()), (200, Some("12")));
}
