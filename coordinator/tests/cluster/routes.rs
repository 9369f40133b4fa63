//! Calls at any node: they come to their partition's owner, and its answer comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use unanimity_coordinator::Node;
use unanimity_coordinator::config::Config;
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::Xid;
use uuid::Uuid;

use crate::nodes::{PARTITIONS, until};
use crate::served::{ANY_PORT, Served, partitions_of, start, xid_of};

#[tokio::test(flavor = "multi_thread")]
async fn m10_every_http_call_is_answered_alike_by_every_node() {
    let served = Served::start(&["a", "b", "c"]).await;
    for entry in 0..3 {
        for home in 0..3 {
            let xid = served.xid_at(home);
            let path = |rest: &str| format!("/v1/transactions/{xid}{rest}");
            let owner = (entry != home).then(|| served.nodes[home].url().unwrap());
            let check = |answer: &crate::served::Answer, status: u16| {
                assert_eq!((answer.status, &answer.owner), (status, &owner), "{entry} {home} {answer:?}");
            };
            let begin = json!({ "mode": "tcc", "xid": xid.to_string(), "name": "any" });
            check(&served.post(entry, "/v1/transactions", &begin).await, 201);
            // The same again is the same; the same with another body is not.
            check(&served.post(entry, "/v1/transactions", &begin).await, 201);
            let other = json!({ "mode": "tcc", "xid": xid.to_string(), "name": "other" });
            let reused = served.post(entry, "/v1/transactions", &other).await;
            check(&reused, 409);
            assert_eq!(reused.text("code"), "xid_reused");
            check(&served.post(entry, &path("/branches"), &served.branch("one")).await, 201);
            let unnamed = served.post(entry, &path("/branches"), &served.branch("two")).await;
            check(&unnamed, 201);
            assert_eq!(unnamed.body["branch_id"], 2);
            let page = served.get(entry, "/v1/transactions?name=any&status=active").await;
            let listed = page.body["transactions"].as_array().unwrap();
            assert!(listed.iter().any(|listed| listed["xid"] == xid.to_string()), "{page:?}");
            assert!(page.body.get("missing_nodes").is_none(), "{page:?}");
            let inquiry = json!({ "xids": [xid.to_string()] });
            let asked = served.post(entry, "/v1/inquiries", &inquiry).await;
            assert_eq!(asked.body["answers"][0]["answer"], "active", "{asked:?}");
            let votes = json!({ "votes": ["one", "two"], "wait": "finished" });
            let committed = served.post(entry, &path("/commit"), &votes).await;
            check(&committed, 200);
            assert_eq!(committed.text("status"), "committed");
            // Errors too are the owner's own, word for word.
            let refused = served.post(entry, &path("/abort"), &json!({})).await;
            check(&refused, 409);
            let at_owner = served.post(home, &path("/abort"), &json!({})).await;
            assert_eq!(refused.body, at_owner.body);
            let retried =
                served.post(entry, &path("/retry"), &json!({ "operator": "o", "reason": "r" })).await;
            check(&retried, 409);
            assert_eq!(retried.text("code"), "illegal_transition");
            let shown = served.get(entry, &path("")).await;
            check(&shown, 200);
            assert_eq!(shown.body["branches"].as_array().map(Vec::len), Some(2));
            // What is no call about a partition is answered where it comes in.
            let invalid = served.post(entry, "/v1/transactions/nonsense/commit", &json!({})).await;
            assert_eq!((invalid.status, invalid.text("code")), (400, "invalid_xid"));
        }
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m10_every_grpc_call_is_answered_alike_by_every_node() {
    let served = Served::start(&["a", "b"]).await;
    for (entry, home) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut client = served.grpc(entry).await;
        let xid = served.xid_at(home).to_string();
        let owner = (entry != home).then(|| served.nodes[home].url().unwrap());
        let begin = v1::BeginRequest { mode: v1::Mode::Tcc.into(), xid: xid.clone(), ..Default::default() };
        let begun = client.begin(begin.clone()).await.unwrap();
        let told = begun.metadata().get("unanimity-owner").map(|told| told.to_str().unwrap().to_owned());
        assert_eq!(told, owner);
        let target = |operation: &str| v1::Target {
            kind: Some(v1::target::Kind::Url(format!("http://{}/{operation}", served.participant))),
        };
        let register = v1::RegisterBranchRequest {
            xid: xid.clone(),
            targets: Some(v1::BranchTargets {
                confirm: Some(target("confirm")),
                cancel: Some(target("cancel")),
                ..Default::default()
            }),
            ..Default::default()
        };
        // Without a key the node where it comes in mints one.
        let registered = client.register_branch(register).await.unwrap().into_inner();
        assert!(!registered.key.is_empty() && registered.branch_id == 1);
        let inquired = client.inquire(v1::InquireRequest { xids: vec![xid.clone()], ..Default::default() });
        assert_eq!(inquired.await.unwrap().into_inner().answers[0].answer, "active");
        let commit = v1::CommitRequest {
            xid: xid.clone(),
            votes: Some(v1::VoteSet { keys: vec![registered.key] }),
            wait: v1::Wait::Finished.into(),
            ..Default::default()
        };
        let committed = client.commit(commit).await.unwrap().into_inner();
        assert_eq!(committed.status(), v1::Status::Committed);
        let refused = client.abort(v1::AbortRequest { xid: xid.clone(), ..Default::default() }).await;
        let detail = unanimity_proto::error_from_status(&refused.unwrap_err()).unwrap();
        assert_eq!((detail.code.as_str(), detail.status()), ("already_decided", v1::Status::Committed));
        assert_eq!(detail.owner_address, owner.unwrap_or_default());
        let found = client.get_transaction(v1::GetTransactionRequest { xid, ..Default::default() }).await;
        assert_eq!(found.unwrap().into_inner().branches.len(), 1);
    }
    served.stop().await;
}

/// A load balancer must not send calls to a node that has been replaced, and people want to know by whom.
#[tokio::test(flavor = "multi_thread")]
async fn m10_a_node_whose_name_another_process_bears_is_not_ready_and_says_who_has_it() {
    let served = Served::start(&["a"]).await;
    assert_eq!(served.get(0, "/readyz").await.status, 200);
    let second = start(&served.log, "a").await;
    let mut told = served.get(0, "/readyz").await;
    for _ in 0..1_200 {
        if told.body["reason"].is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        told = served.get(0, "/readyz").await;
    }
    let reason = told.text("reason");
    assert_eq!((told.status, &told.body["ready"]), (503, &json!(false)), "{told:?}");
    assert!(reason.contains(&second.url().unwrap()) && reason.contains("\"a\""), "{reason}");
    becomes(&served.url(0, ""), ServingStatus::NotServing).await;
    becomes(&second.url().unwrap(), ServingStatus::Serving).await;
    second.shutdown().await;
    served.stop().await;
}

/// Waits until a node's health is this.
async fn becomes(url: &str, wanted: ServingStatus) {
    let channel = tonic::transport::Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for _ in 0..1_200 {
        let request = HealthCheckRequest { service: String::new() };
        if health.check(request).await.unwrap().into_inner().status() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{url} never became {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begin_without_an_xid_stays_where_it_comes_in() {
    let served = Served::start(&["a", "b", "c"]).await;
    for entry in 0..3 {
        let mut client = served.grpc(entry).await;
        for _ in 0..10 {
            let begun = served.post(entry, "/v1/transactions", &json!({ "mode": "tcc" })).await;
            assert_eq!((begun.status, &begun.owner), (201, &None), "{begun:?}");
            let xid: Xid = begun.text("xid").parse().unwrap();
            assert_eq!(served.owner_of(xid), entry);
            let begin = v1::BeginRequest { mode: v1::Mode::Tcc.into(), ..Default::default() };
            let begun = client.begin(begin).await.unwrap();
            assert!(begun.metadata().get("unanimity-owner").is_none());
            assert_eq!(served.owner_of(begun.into_inner().xid.parse().unwrap()), entry);
        }
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_over_all_nodes_page_by_page() {
    let served = Served::start(&["a", "b", "c"]).await;
    let mut begun: Vec<String> = Vec::new();
    for n in 0..12 {
        let xid = served.xid_at(n % 3);
        served.begin((n + 1) % 3, xid).await;
        begun.push(xid.to_string());
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        // Each page from another node: the cursor is no node's own.
        let page = served.get(pages % 3, &format!("/v1/transactions?limit=5&cursor={cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let transactions = page.body["transactions"].as_array().unwrap();
        seen.extend(transactions.iter().map(|listed| listed["xid"].as_str().unwrap().to_owned()));
        pages += 1;
        match page.body["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (12, 3));
    seen.sort_unstable();
    begun.sort_unstable();
    assert_eq!(seen, begun);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m12_a_long_poll_goes_on_across_a_hand_over() {
    let mut served = Served::start(&["a", "b"]).await;
    let xid = served.xid_at(1);
    served.begin(0, xid).await;
    let url = served.url(0, &format!("/v1/transactions/{xid}?wait=finished"));
    let polled = tokio::spawn(served.http.get(url).send());
    let mut client = served.grpc(0).await;
    let look =
        v1::GetTransactionRequest { xid: xid.to_string(), wait: v1::Wait::Decided.into(), wait_ms: 50_000 };
    let looked = tokio::spawn(async move { client.get_transaction(look).await });
    // Both are on their way to b when it hands its partitions over and goes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    served.nodes.pop().unwrap().shutdown().await;
    assert!(!polled.is_finished() && !looked.is_finished());
    let committed = served.post(0, &format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    assert_eq!(committed.status, 200, "{committed:?}");
    let polled: serde_json::Value = polled.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(polled["status"], "committed");
    assert_eq!(looked.await.unwrap().unwrap().into_inner().decision, "commit");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_commits_are_answered_when_their_owner_dies_under_them() {
    let mut served = Served::start(&["a", "b"]).await;
    let mut waiting = Vec::new();
    for n in 0..20 {
        let xid = served.xid_at(1);
        served.begin(n % 2, xid).await;
        let url = served.url(0, &format!("/v1/transactions/{xid}/commit"));
        waiting.push(served.http.post(url).json(&json!({ "votes": [] })));
    }
    let owner = served.nodes.pop().unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for (n, call) in waiting.into_iter().enumerate() {
        calls.spawn(async move {
            tokio::time::sleep(Duration::from_micros(300 * n as u64)).await;
            call.send().await.unwrap()
        });
    }
    tokio::time::sleep(Duration::from_millis(3)).await;
    owner.kill().await;
    while let Some(answer) = calls.join_next().await {
        let answer = crate::served::Answer::of(answer.unwrap()).await;
        assert_eq!((answer.status, answer.text("status")), (200, "committed"), "{answer:?}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h7_locks_keep_and_change_holders_across_nodes() {
    let mut served = Served::start(&["a", "b", "c"]).await;
    // Keys enough that some have their home at each node.
    let keys: Vec<String> = (0..6).map(|n| format!("sku-{n}-{}", Uuid::new_v4())).collect();
    let locked = |key: &str| {
        let mut branch = served.branch(key);
        branch["lock_keys"] = json!(keys);
        branch
    };
    let (first, second) = (served.xid_at(0), served.xid_at(1));
    for (xid, home) in [(first, 0), (second, 1)] {
        served.begin(home, xid).await;
    }
    let (mine, mut theirs) = (locked("mine"), locked("theirs"));
    let registered = served.post(2, &format!("/v1/transactions/{first}/branches"), &mine).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    let path = format!("/v1/transactions/{second}/branches");
    let refused = served.post(0, &path, &theirs).await;
    assert_eq!((refused.status, refused.text("code")), (409, "lock_conflict"), "{refused:?}");
    assert_eq!(refused.text("holder"), first.to_string());
    // The node goes that some of the locks have their home at, and is not asked about it.
    served.nodes.pop().unwrap().kill().await;
    let refused = served.post(0, &path, &theirs).await;
    assert_eq!((refused.status, refused.text("code")), (409, "lock_conflict"), "{refused:?}");
    theirs["lock_wait_ms"] = json!(20_000);
    let waits = tokio::spawn(served.http.post(served.url(1, &path)).json(&theirs).send());
    let commit = json!({ "votes": ["mine"], "wait": "finished" });
    let committed = served.post(1, &format!("/v1/transactions/{first}/commit"), &commit).await;
    assert_eq!(committed.status, 200, "{committed:?}");
    let registered = crate::served::Answer::of(waits.await.unwrap().unwrap()).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_session_are_told_of_every_node() {
    let served = Served::start(&["a", "b"]).await;
    let mut client = served.grpc(0).await;
    let (outgoing, commands) = tokio::sync::mpsc::channel::<v1::CommandBatch>(1);
    let stream = ReceiverStream::new(commands);
    let mut answers = client.commands(stream).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().topology.unwrap();
    assert_eq!((first.told_by.as_str(), first.nodes.len()), ("a", 2));
    assert_eq!(first.owners.len(), usize::from(PARTITIONS));
    // A node that joins is news, and so is what it takes over.
    let third = start(&served.log, "c").await;
    let mut owned = 0;
    while owned == 0 {
        let Some(news) = answers.message().await.unwrap().unwrap().topology else { continue };
        if let Some(joined) = news.nodes.iter().find(|node| node.node == "c") {
            assert_eq!(joined.address, third.url().unwrap());
            owned = news.owners.iter().filter(|owner| owner.node == "c").count();
        }
    }
    until("its share", || !partitions_of(&third).is_empty()).await;
    drop(outgoing);
    third.shutdown().await;
    served.stop().await;
}

/// Whoever is gone waits for no owner: its commands give their places up, and not only at their deadline.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_dead_stream_do_not_wait_for_an_owner() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(PARTITIONS));
    let builder = |name: &str| {
        let mut config = Config { node: Some(name.to_owned()), ..Config::default() };
        config.limits.in_flight_max = 4;
        config
    };
    let here =
        Node::builder().log(Arc::clone(&log)).listen(ANY_PORT).config(builder("a")).start().await.unwrap();
    // It lives, owns its share, and cannot be called.
    let mut away = builder("b");
    away.advertise = Some("http://127.0.0.1:1".to_owned());
    let away = Node::builder().log(Arc::clone(&log)).listen(ANY_PORT).config(away).start().await.unwrap();
    until("balance", || !partitions_of(&away).is_empty() && !partitions_of(&here).is_empty()).await;
    until("all work", || partitions_of(&away).len() + partitions_of(&here).len() == usize::from(PARTITIONS))
        .await;
    let commands = |home: &Node, count: u64| {
        let command = |id| {
            let xid = xid_of(&partitions_of(home)).to_string();
            let begin = v1::BeginRequest { mode: v1::Mode::Tcc.into(), xid, ..Default::default() };
            v1::Command { id, timeout_ms: 25_000, kind: Some(v1::command::Kind::Begin(begin)) }
        };
        v1::CommandBatch { commands: (1..=count).map(command).collect() }
    };
    let mut client = CoordinatorClient::connect(here.url().unwrap()).await.unwrap();
    let (lost, batches) = tokio::sync::mpsc::channel(1);
    lost.send(commands(&away, 4)).await.unwrap();
    let stream = client.commands(ReceiverStream::new(batches)).await.unwrap();
    // As many as may be are in hand now, all of them waiting for somebody who cannot be called.
    let begin = || v1::BeginRequest {
        mode: v1::Mode::Tcc.into(),
        xid: xid_of(&partitions_of(&here)).to_string(),
        ..Default::default()
    };
    let mut other = CoordinatorClient::connect(here.url().unwrap()).await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while other.begin(begin()).await.is_ok() {
        assert!(Instant::now() < end, "its commands were never in hand");
    }
    drop((stream, lost));
    let dropped = Instant::now();
    while let Err(status) = other.begin(begin()).await {
        let detail = unanimity_proto::error_from_status(&status).unwrap();
        assert_eq!(detail.code, "too_busy", "{status:?}");
        assert!(dropped.elapsed() < Duration::from_secs(10), "nobody waits for them, and they wait on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    here.shutdown().await;
    away.shutdown().await;
}
