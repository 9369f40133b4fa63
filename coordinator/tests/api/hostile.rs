//! Hostile text: refused where it enters, made printable where a participant says it (protocol M5).

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use sqlx::Connection as _;
use unanimity_coordinator::Node;
use unanimity_coordinator::config::{Config, Retry};
use unanimity_coordinator::delivery::AllowList;
use unanimity_coordinator::log::migrate_postgres;
use unanimity_proto::v1;
use unanimity_proto::v1::participants_client::ParticipantsClient;

use crate::postgres::Database;
use crate::support::{ANY_PORT, Callback, Fixture, READY_MAX, grpc_code, http_client, stop};

/// What no database takes, what moves a terminal's cursor, what hides or turns text around.
const HOSTILE: [&str; 4] = ["a\u{0}b", "a\u{1b}[2Jb", "a\rb", "a\u{202e}b"];
/// What a participant may say in its error.
const ERROR: &str = "no \u{0}stock\u{1b}[31m\r\n\u{202e}left";
/// The same, fit for logs, pages and databases.
const CLEAN_ERROR: &str = "no stock [31m left";

#[tokio::test]
async fn m5_names_are_refused_everywhere() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    let branches = format!("/v1/transactions/{xid}/branches");
    for text in HOSTILE {
        let begun = fixture.post("/v1/transactions", &json!({ "mode": "tcc", "name": text })).await;
        assert_eq!((begun.code().as_str(), begun.status), ("invalid_name", 400), "{text:?}");
        let begin =
            v1::BeginRequest { mode: v1::Mode::Tcc as i32, name: text.to_owned(), ..Default::default() };
        assert_eq!(grpc_code(&client.begin(begin).await.expect_err("refused")), "invalid_name", "{text:?}");

        for body in [
            json!({ "key": text, "participant": "p", "operation": "o" }),
            json!({ "key": "k", "participant": text, "operation": "o" }),
            json!({ "key": "k", "participant": "p", "operation": text }),
        ] {
            let registered = fixture.post(&branches, &body).await;
            assert_eq!(registered.code(), "invalid_name", "{body}");
        }
        for (key, participant, operation) in [(text, "p", "o"), ("k", text, "o"), ("k", "p", text)] {
            let target = v1::ParticipantTarget {
                participant: participant.to_owned(),
                operation: operation.to_owned(),
            };
            let target = v1::Target { kind: Some(v1::target::Kind::Participant(target)) };
            let request = v1::RegisterBranchRequest {
                xid: xid.clone(),
                key: key.to_owned(),
                targets: Some(v1::BranchTargets { one: Some(target), ..Default::default() }),
                ..Default::default()
            };
            let status = client.register_branch(request).await.expect_err("refused");
            assert_eq!(grpc_code(&status), "invalid_name", "{text:?}");
        }
        let votes = json!({ "votes": [text] });
        let commit = fixture.post(&format!("/v1/transactions/{xid}/commit"), &votes).await;
        assert_eq!(commit.code(), "invalid_name", "{text:?}");
        let commit = v1::CommitRequest {
            xid: xid.clone(),
            votes: Some(v1::VoteSet { keys: vec![text.to_owned()] }),
            ..Default::default()
        };
        assert_eq!(grpc_code(&client.commit(commit).await.expect_err("refused")), "invalid_name");

        for field in ["name", "participant"] {
            let url = reqwest::Url::parse_with_params(&fixture.url("/v1/transactions"), [(field, text)]);
            let request = fixture.http.get(url.expect("a URL"));
            let answer: Value = request.send().await.expect("an answer").json().await.expect("a problem");
            assert_eq!(answer["code"], "invalid_name", "{field} {text:?}");
        }
        for request in [
            v1::ListTransactionsRequest { name: text.to_owned(), ..Default::default() },
            v1::ListTransactionsRequest { participant: text.to_owned(), ..Default::default() },
        ] {
            let status = client.list_transactions(request).await.expect_err("refused");
            assert_eq!(grpc_code(&status), "invalid_name", "{text:?}");
        }

        let url = format!("http://127.0.0.1:1/{text}");
        let body = json!({ "confirm": { "url": url }, "cancel": { "url": url } });
        let registered = fixture.post(&branches, &body).await;
        assert!(["invalid_target", "target_not_allowed"].contains(&registered.code().as_str()), "{text:?}");

        for (participant, instance, operation) in [(text, "i", "o"), ("p", text, "o"), ("p", "i", text)] {
            let hello = v1::Hello {
                participant: participant.to_owned(),
                instance: instance.to_owned(),
                operations: vec![operation.to_owned()],
                protocol_version: 1,
                ..Default::default()
            };
            let hello = v1::ParticipantMessage { kind: Some(v1::participant_message::Kind::Hello(hello)) };
            let mut participants = ParticipantsClient::connect(fixture.url("")).await.expect("connected");
            let status = match participants.attach(tokio_stream::iter([hello])).await {
                Ok(session) => session.into_inner().message().await.expect_err("refused"),
                Err(status) => status,
            };
            assert_eq!(grpc_code(&status), "invalid_name", "{text:?}");
        }
    }
    // Nothing of it left a trace.
    let shown = fixture.get(&format!("/v1/transactions/{xid}")).await;
    assert_eq!((shown.text("status").as_str(), &shown.body["branches"]), ("active", &json!([])));
}

#[tokio::test]
async fn m5_operators_and_reasons_are_refused_everywhere() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    for text in HOSTILE {
        for (operator, reason) in [(text, "r"), ("ada", text)] {
            // A reason is text, whose direction may change; a name is not.
            if operator == "ada" && text.contains('\u{202e}') {
                continue;
            }
            let mut by = json!({ "operator": operator, "reason": reason });
            for path in [format!("transactions/{xid}/retry"), format!("transactions/{xid}/abort")] {
                let answer = fixture.post(&format!("/v1/{path}"), &by).await;
                assert_eq!((answer.code().as_str(), answer.status), ("invalid_request", 400), "{path} {by}");
            }
            let answer = fixture.post("/v1/partitions/0/accept-loss", &by).await;
            assert_eq!(answer.code(), "invalid_request", "{by}");
            by["resolve_as"] = json!("confirmed");
            let answer = fixture.post(&format!("/v1/transactions/{xid}/branches/1/resolve"), &by).await;
            assert_eq!(answer.code(), "invalid_request", "{by}");

            let (operator, reason) = (operator.to_owned(), reason.to_owned());
            let abort = v1::AbortRequest {
                xid: xid.clone(),
                operator: operator.clone(),
                reason: reason.clone(),
                ..Default::default()
            };
            assert_eq!(grpc_code(&client.abort(abort).await.expect_err("refused")), "invalid_request");
            let retry = v1::RetryTransactionRequest {
                xid: xid.clone(),
                operator: operator.clone(),
                reason: reason.clone(),
            };
            let status = client.retry_transaction(retry).await.expect_err("refused");
            assert_eq!(grpc_code(&status), "invalid_request");
            let resolve = v1::ResolveBranchRequest {
                xid: xid.clone(),
                branch_id: 1,
                resolve_as: "confirmed".to_owned(),
                operator: operator.clone(),
                reason: reason.clone(),
            };
            let status = client.resolve_branch(resolve).await.expect_err("refused");
            assert_eq!(grpc_code(&status), "invalid_request");
            let accept = v1::AcceptLossRequest { partition: 0, operator, reason };
            assert_eq!(grpc_code(&client.accept_loss(accept).await.expect_err("refused")), "invalid_request");
        }
    }
    assert_eq!(fixture.get(&format!("/v1/transactions/{xid}")).await.text("status"), "active");
}

/// Commits at a participant that first answers with a hostile error, and waits for the end.
async fn commit_past_an_error(fixture: &Fixture, status: StatusCode) -> (String, Value) {
    let stock = Callback::start().await;
    stock.answer_with(status);
    stock.say(ERROR);
    let xid = fixture.begin().await;
    assert_eq!(fixture.branch(&xid, "stock", &stock).await.status, 201);
    let committed = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    assert_eq!(committed.status, 200, "{committed:?}");
    let path = format!("/v1/transactions/{xid}");
    let mut failing = Value::Null;
    for _ in 0..200 {
        failing = fixture.get(&path).await.body;
        if failing["attention"].is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(failing["attention"].is_object(), "{failing}");
    stock.answer_with(StatusCode::OK);
    let finished = fixture.get(&format!("{path}?wait=finished&wait_ms=20000")).await;
    assert_eq!(finished.text("status"), "committed");
    (xid, failing)
}

/// Nothing in it could harm a terminal or a database.
fn assert_printable(value: &Value) {
    match value {
        Value::String(text) => {
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
        Value::Array(items) => items.iter().for_each(assert_printable),
        Value::Object(fields) => fields.values().for_each(assert_printable),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn impatient() -> Config {
    let retry = Retry { initial_ms: 20, cap_ms: 200, attention_after: 2 };
    Config { retry, ..Config::default() }
}

#[tokio::test]
async fn m5_what_participants_say_is_printable() {
    let fixture = Fixture::with(impatient()).await;
    for (status, expected) in [
        (StatusCode::INTERNAL_SERVER_ERROR, format!("HTTP 500 Internal Server Error: {CLEAN_ERROR}")),
        (StatusCode::CONFLICT, CLEAN_ERROR.to_owned()),
        (StatusCode::NOT_FOUND, format!("HTTP 404 Not Found: {CLEAN_ERROR}")),
    ] {
        let (xid, failing) = commit_past_an_error(&fixture, status).await;
        assert_eq!(failing["branches"][0]["last_error"], expected, "{failing}");
        assert!(failing["attention"]["message"].as_str().is_some_and(|text| text.contains(&expected)));
        assert_printable(&failing);
        assert_printable(&fixture.get(&format!("/v1/transactions/{xid}")).await.body);
    }
    stop(fixture.node).await;
}

#[tokio::test]
async fn m5_history_on_postgres_stays_readable_after_a_hostile_error() {
    let database = Database::create().await;
    migrate_postgres(&database.url, Some(1)).await.expect("migrated");
    let start = async || {
        let node = Node::builder()
            .postgres(&database.url)
            .listen(ANY_PORT)
            .allow_callbacks(AllowList::loopback())
            .config(Config { node: Some("one".to_owned()), ..impatient() })
            .start()
            .await
            .expect("started");
        node.ready(READY_MAX).await.expect("ready");
        Fixture { node, http: http_client() }
    };
    let fixture = start().await;
    let (xid, failing) = commit_past_an_error(&fixture, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert!(failing["branches"][0]["last_error"].as_str().is_some_and(|text| text.ends_with(CLEAN_ERROR)));
    // A restart leaves what is over to history alone.
    stop(fixture.node).await;
    let fixture = start().await;
    let shown = fixture.get(&format!("/v1/transactions/{xid}")).await;
    assert_eq!(shown.text("status"), "committed");
    let told = shown.body["timeline"].to_string();
    assert!(told.contains(CLEAN_ERROR) && !told.contains("unstorable"), "{told}");
    assert_eq!(fixture.get("/v1/transactions").await.body["transactions"][0]["xid"], xid);

    // And in plain SQL, where an operator looks.
    let mut connection = sqlx::PgConnection::connect(&database.url).await.expect("the database");
    let (status, key, detail): (String, String, String) = sqlx::query_as(
        "SELECT b.status, b.key, h.detail::text FROM branches b JOIN history h USING (xid) \
         WHERE b.xid = $1::uuid",
    )
    .bind(&xid)
    .fetch_one(&mut connection)
    .await
    .expect("a readable row");
    assert_eq!((status.as_str(), key.as_str()), ("confirmed", "stock"));
    assert!(detail.contains(CLEAN_ERROR), "{detail}");
    connection.close().await.expect("goodbye");
    stop(fixture.node).await;
    database.remove().await;
}
