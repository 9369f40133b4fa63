//! Every HTTP route does what it says.

use http::StatusCode;
use serde_json::json;

use crate::support::{Callback, Fixture, stop};

#[tokio::test]
async fn a_transaction_commits_from_begin_to_callback() {
    let fixture = Fixture::start().await;
    let (stock, payment) = (Callback::start().await, Callback::start().await);
    let xid = fixture.begin().await;
    let first = fixture.branch(&xid, "stock", &stock).await;
    assert_eq!((first.status, first.body["branch_id"].as_u64()), (201, Some(1)), "{first:?}");
    assert_eq!(fixture.branch(&xid, "payment", &payment).await.body["branch_id"], 2);
    // The same key and body is the same branch.
    assert_eq!(fixture.branch(&xid, "stock", &stock).await.body["branch_id"], 1);

    let body = json!({ "votes": ["stock", "payment"], "wait": "finished" });
    let committed = fixture.post(&format!("/v1/transactions/{xid}/commit"), &body).await;
    assert_eq!((committed.status, committed.text("status").as_str()), (200, "committed"), "{committed:?}");
    // Repeated, it is answered as the first time.
    let again = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    assert_eq!((again.status, again.text("status").as_str()), (200, "committed"), "{again:?}");

    for (participant, key, branch_id) in [(&stock, "stock", 1), (&payment, "payment", 2)] {
        let calls = participant.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        let call = &calls[0];
        assert_eq!(call["xid"], xid);
        assert_eq!((call["key"].as_str(), call["branch_id"].as_u64()), (Some(key), Some(branch_id)));
        assert_eq!((call["operation"].as_str(), call["attempt"].as_u64()), (Some("confirm"), Some(1)));
        assert_eq!(call["payload"], json!({ "amount": 7 }));
        assert!(call["epoch"].is_u64(), "{call}");
    }

    let shown = fixture.get(&format!("/v1/transactions/{xid}")).await;
    assert_eq!(shown.body["decision"], "commit");
    assert_eq!(shown.body["branches"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown.body["branches"][0]["status"], "confirmed");
    let events: Vec<_> =
        shown.body["timeline"].as_array().expect("a timeline").iter().map(|e| e["event"].clone()).collect();
    assert_eq!(events.first(), Some(&json!("begun")));
    assert_eq!(events.last(), Some(&json!("finished")));
    stop(fixture.node).await;
}

#[tokio::test]
async fn an_abort_cancels_and_may_be_repeated() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let xid = fixture.begin().await;
    fixture.branch(&xid, "stock", &stock).await;
    // Without a body at all.
    let aborted = fixture.post_raw(&format!("/v1/transactions/{xid}/abort"), "text/plain", "").await;
    assert!(["aborting", "aborted"].contains(&aborted.text("status").as_str()), "{aborted:?}");
    let finished = fixture.get(&format!("/v1/transactions/{xid}?wait=finished&wait_ms=10000")).await;
    assert_eq!(
        (finished.text("status").as_str(), finished.text("abort_reason").as_str()),
        ("aborted", "requested")
    );
    let again = fixture.post(&format!("/v1/transactions/{xid}/abort"), &json!({ "wait": "finished" })).await;
    assert_eq!((again.status, again.text("status").as_str()), (200, "aborted"));
    assert_eq!(stock.calls()[0]["operation"], "cancel");
}

#[tokio::test]
async fn a_repeated_begin_is_answered_as_the_first_time() {
    let fixture = Fixture::start().await;
    let body = json!({ "mode": "tcc", "name": "once", "xid": "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f", "timeout_ms": 9000 });
    let first = fixture.post("/v1/transactions", &body).await;
    let second = fixture.post("/v1/transactions", &body).await;
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.text("xid"), second.text("xid"));
}

#[tokio::test]
async fn a_page_goes_on_at_its_cursor() {
    let fixture = Fixture::start().await;
    for _ in 0..5 {
        fixture.begin().await;
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut path = "/v1/transactions?limit=2&status=active&mode=tcc&name=test".to_owned();
    let mut pages = 0;
    loop {
        let page = fixture.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        pages += 1;
        for transaction in page.body["transactions"].as_array().expect("transactions") {
            assert!(transaction.get("branches").is_none());
            assert!(seen.insert(transaction["xid"].to_string()), "{transaction} twice");
        }
        match page.body["next_cursor"].as_str() {
            Some(cursor) => {
                path = format!("/v1/transactions?limit=2&status=active&mode=tcc&name=test&cursor={cursor}");
            }
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (5, 3));
    let none = fixture.get("/v1/transactions?older_than=1h&attention=true&participant=nobody").await;
    assert_eq!(none.body["transactions"], json!([]));
}

#[tokio::test]
async fn an_operator_retries_and_resolves() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    stock.answer_with(StatusCode::SERVICE_UNAVAILABLE);
    let xid = fixture.begin().await;
    fixture.branch(&xid, "stock", &stock).await;
    let decided = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    assert_eq!(decided.text("status"), "committing", "{decided:?}");

    let by = json!({ "operator": "ada", "reason": "it is back" });
    let retried = fixture.post(&format!("/v1/transactions/{xid}/retry"), &by).await;
    assert_eq!((retried.status, retried.text("status").as_str()), (200, "committing"), "{retried:?}");

    let by = json!({ "resolve_as": "confirmed", "operator": "ada", "reason": "booked by hand" });
    let resolved = fixture.post(&format!("/v1/transactions/{xid}/branches/1/resolve"), &by).await;
    assert_eq!((resolved.status, resolved.text("status").as_str()), (200, "committed"), "{resolved:?}");
    let shown = fixture.get(&format!("/v1/transactions/{xid}")).await;
    let branch = &shown.body["branches"][0];
    assert_eq!(branch["status"], "heuristic_confirmed");
    assert_eq!(
        (branch["resolved_by"].as_str(), branch["resolved_reason"].as_str()),
        (Some("ada"), Some("booked by hand"))
    );

    // An operator's abort has its own reason.
    let xid = fixture.begin().await;
    let by = json!({ "operator": "ada", "reason": "stuck" });
    let aborted = fixture.post(&format!("/v1/transactions/{xid}/abort"), &by).await;
    assert_eq!(aborted.text("abort_reason"), "operator");
}

#[tokio::test]
async fn an_inquiry_settles_what_nobody_knows() {
    let fixture = Fixture::start().await;
    let known = fixture.begin().await;
    let unknown = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let body = json!({ "xids": [known, unknown] });
    let answers = fixture.post("/v1/inquiries", &body).await;
    assert_eq!(answers.status, 200, "{answers:?}");
    assert_eq!(answers.body["answers"][0], json!({ "xid": known, "answer": "active", "settled": false }));
    assert_eq!(answers.body["answers"][1]["answer"], "aborted");
    assert_eq!(answers.body["positions"].as_array().map(Vec::len), Some(2));
    // Presumed aborted, for good: a 200, not a 404 (protocol M4).
    let shown = fixture.get(&format!("/v1/transactions/{unknown}")).await;
    assert_eq!(
        (shown.status, shown.text("status").as_str(), shown.text("abort_reason").as_str()),
        (200, "aborted", "presumed")
    );

    let foreign = json!({ "xids": [known], "log_id": "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f" });
    assert_eq!(fixture.post("/v1/inquiries", &foreign).await.body["answers"][0]["answer"], "not_mine");
}

#[tokio::test]
async fn the_coordinator_tells_who_it_is() {
    let fixture = Fixture::start().await;
    let info = fixture.get("/v1/info").await;
    assert_eq!(info.text("log_id"), fixture.node.coordinator().log_id().to_string());
    assert_eq!(info.body["partitions"], 2);
    assert_eq!(info.body["partition_states"][1]["state"], "running");
    assert!(fixture.get("/").await.raw.contains("/v1/transactions"));
    assert!(fixture.get("/metrics").await.raw.contains("unanimity_open_transactions{partition=\"0\"}"));
    // Nothing was lost, so nothing can be accepted.
    let by = json!({ "operator": "ada", "reason": "because" });
    assert_eq!(fixture.post("/v1/partitions/0/accept-loss", &by).await.code(), "illegal_transition");
}

#[tokio::test]
async fn metrics_tell_how_each_partition_is() {
    let fixture = Fixture::start().await;
    fixture.begin().await;
    let text = fixture.get("/metrics").await.raw;
    for (name, kind, help) in [
        ("requests", "counter", "Requests answered, by route and code."),
        ("request_duration_seconds", "histogram", "Time to an answer, by route."),
        ("open_transactions", "gauge", "Transactions in memory, by partition."),
        ("partition_state", "gauge", "1 for the state that a partition is in."),
        ("log_epoch", "gauge", "Epoch of the last durable block, by partition."),
        ("log_block", "gauge", "Number of the last durable block, by partition."),
    ] {
        let header = format!("# HELP unanimity_{name} {help}\n# TYPE unanimity_{name} {kind}\n");
        assert!(text.contains(&header), "{header} is not in\n{text}");
    }
    let value = |name: &str, labels: &str| -> u64 {
        let start = format!("unanimity_{name}{{{labels}}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {start}in\n{text}"))
    };
    let mut open = 0;
    for partition in 0..2 {
        let labels = format!("partition=\"{partition}\"");
        open += value("open_transactions", &labels);
        assert_eq!(value("log_epoch", &labels), 1);
        assert!(value("log_block", &labels) >= 1);
        assert_eq!(value("partition_state", &format!("{labels},state=\"running\"")), 1);
    }
    assert_eq!(open, 1);
    assert_eq!(value("requests_total", "route=\"POST /v1/transactions\",code=\"201\""), 1);
}

#[tokio::test]
async fn a_long_poll_answers_when_it_is_decided_or_when_its_time_is_over() {
    let fixture = Fixture::start().await;
    let xid = fixture.begin().await;
    let started = std::time::Instant::now();
    let early = fixture.get(&format!("/v1/transactions/{xid}?wait=decided&wait_ms=300")).await;
    assert_eq!(early.text("status"), "active");
    assert!(started.elapsed().as_millis() >= 300, "{:?}", started.elapsed());
    let path = format!("/v1/transactions/{xid}?wait=finished&wait_ms=20000");
    let (finished, _) = tokio::join!(fixture.get(&path), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await
    });
    assert_eq!(finished.text("status"), "committed");
}
