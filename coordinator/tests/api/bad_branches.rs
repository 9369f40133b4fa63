//! Registrations, votes and decisions that do not fit: the same code by HTTP and by gRPC.

use serde_json::{Value, json};
use unanimity_proto::v1;
use unanimity_types::Limits;

use crate::support::{Answer, Callback, Fixture, grpc_code};

const URL: &str = "http://127.0.0.1:1/x";

fn target(url: &str) -> Option<v1::Target> {
    Some(v1::Target { kind: Some(v1::target::Kind::Url(url.to_owned())) })
}

fn tcc() -> v1::BranchTargets {
    v1::BranchTargets { confirm: target(URL), cancel: target(URL), ..Default::default() }
}

fn two_phase() -> v1::BranchTargets {
    v1::BranchTargets {
        prepare: target(URL),
        commit: target(URL),
        rollback: target(URL),
        ..Default::default()
    }
}

impl Fixture {
    async fn began(&self, body: Value) -> String {
        let begun = self.post("/v1/transactions", &body).await;
        assert_eq!(begun.status, 201, "{begun:?}");
        begun.text("xid")
    }

    async fn register(&self, xid: &str, body: &Value) -> Answer {
        self.post(&format!("/v1/transactions/{xid}/branches"), body).await
    }

    async fn vote(&self, xid: &str, key: &str, vote: &str) -> Answer {
        self.post(&format!("/v1/transactions/{xid}/vote"), &json!({ "key": key, "vote": vote })).await
    }

    async fn grpc_vote(&self, xid: &str, key: &str, vote: v1::Vote) -> Option<String> {
        let request = v1::VoteRequest { xid: xid.to_owned(), key: key.to_owned(), vote: vote.into() };
        self.grpc().await.vote(request).await.err().map(|status| grpc_code(&status))
    }
}

fn early(key: &str) -> Value {
    json!({ "key": key, "commit": { "url": URL }, "rollback": { "url": URL } })
}

#[tokio::test]
async fn kinds_that_a_mode_does_not_carry() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let url = json!({ "url": URL });
    let slow = Callback::start().await;
    slow.answer_with(http::StatusCode::SERVICE_UNAVAILABLE);
    let two_phase_xid = fixture.began(json!({ "mode": "two_phase" })).await;
    let action = json!({ "url": slow.url("action") });
    let saga = fixture.began(json!({ "mode": "saga", "steps": [{ "name": "a", "action": action }] })).await;
    let message =
        fixture.began(json!({ "mode": "message", "deliver": [{ "url": URL }], "check_back": url })).await;
    let confirm = json!({ "confirm": url, "cancel": url });
    let deliver = json!({ "deliver": url });
    for (xid, body, targets, words) in [
        (&two_phase_xid, &confirm, tcc(), "begin it as tcc"),
        (&saga, &confirm, tcc(), "came with its plan"),
        (&saga, &deliver, two_phase(), "came with its plan"),
        (&message, &deliver, tcc(), "nothing more registers"),
        (&message, &early("x"), two_phase(), "nothing more registers"),
    ] {
        let answer = fixture.register(xid, body).await;
        assert_eq!((answer.code().as_str(), answer.status), ("branch_kind_not_allowed", 422), "{body}");
        assert!(answer.text("detail").contains(words), "{answer:?}");
        let request =
            v1::RegisterBranchRequest { xid: xid.clone(), targets: Some(targets), ..Default::default() };
        let status = client.register_branch(request).await.expect_err("refused");
        assert_eq!(grpc_code(&status), "branch_kind_not_allowed", "{body}");
    }
    // Steps and senders come with plans, whatever the targets.
    let xid = fixture.begin().await;
    for kind in ["step", "sender"] {
        let body = json!({ "participant": "p", "operation": "o", "kind": kind });
        assert_eq!(fixture.register(&xid, &body).await.code(), "branch_kind_not_allowed", "{kind}");
    }
    // What a saga and a message do by themselves, nobody else decides.
    let commit = fixture.post(&format!("/v1/transactions/{saga}/commit"), &json!({})).await;
    assert_eq!(commit.code(), "illegal_transition");
    let request = v1::CommitRequest { xid: saga.clone(), ..Default::default() };
    assert_eq!(grpc_code(&client.commit(request).await.expect_err("a saga")), "illegal_transition");
}

#[tokio::test]
async fn branches_that_make_no_sense() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let xid = fixture.begin().await;
    let url = json!({ "url": URL });
    for (body, code) in [
        (json!({ "commit": url }), "invalid_target"),
        (json!({ "prepare": url, "rollback": url }), "invalid_target"),
        (json!({ "commit": url, "rollback": url, "confirm": url, "cancel": url }), "invalid_target"),
        (json!({ "commit": url, "rollback": url, "deliver": url }), "invalid_target"),
        (json!({ "participant": "p", "operation": "o", "deliver": url }), "invalid_target"),
        (json!({ "commit": url, "rollback": url, "early": false }), "invalid_target"),
        (json!({ "commit": url, "rollback": url, "kind": "tcc" }), "invalid_target"),
        (json!({ "confirm": url, "cancel": url, "kind": "two_phase" }), "invalid_target"),
        (json!({ "deliver": url, "kind": "tcc" }), "invalid_target"),
        (json!({ "confirm": url, "cancel": url, "kind": "xa" }), "invalid_request"),
        (json!({ "confirm": url, "cancel": url, "early": true }), "invalid_request"),
        (json!({ "deliver": url, "one_phase": true }), "invalid_request"),
        (json!({ "deliver": url, "lock_keys": [""] }), "invalid_name"),
        (json!({ "deliver": url, "lock_keys": ["k".repeat(129)] }), "invalid_name"),
        (
            json!({ "deliver": url, "lock_keys": (0..17).map(|n| n.to_string()).collect::<Vec<_>>() }),
            "invalid_request",
        ),
        (json!({ "deliver": url, "lock_keys": ["k"], "lock_wait_ms": 30_001 }), "invalid_timeout"),
        (json!({ "deliver": url, "timeout_ms": 0 }), "invalid_timeout"),
        (json!({ "deliver": url, "timeout_ms": 600_001 }), "invalid_request"),
        (json!({ "confirm": url, "cancel": url, "retry": { "give_up_after": 3 } }), "illegal_transition"),
        (json!({ "deliver": url, "lock_key": "k" }), "invalid_request"),
    ] {
        assert_eq!(fixture.register(&xid, &body).await.code(), code, "{body}");
    }
    let request = |change: &dyn Fn(&mut v1::RegisterBranchRequest)| {
        let mut request =
            v1::RegisterBranchRequest { xid: xid.clone(), targets: Some(tcc()), ..Default::default() };
        change(&mut request);
        request
    };
    let no_prepare = v1::BranchTargets { prepare: None, ..two_phase() };
    let keys: Vec<String> = (0..=Limits::LOCK_KEYS_MAX).map(|n| n.to_string()).collect();
    for (request, code) in [
        (request(&|request| request.targets = Some(no_prepare.clone())), "invalid_target"),
        (request(&|request| request.kind = v1::BranchKind::TwoPhase.into()), "invalid_target"),
        (request(&|request| request.lock_keys = keys.clone()), "invalid_request"),
        (request(&|request| request.lock_keys = vec!["\0".to_owned()]), "invalid_name"),
    ] {
        assert_eq!(grpc_code(&client.register_branch(request).await.expect_err("refused")), code);
    }
    let view = fixture.get(&format!("/v1/transactions/{xid}")).await;
    assert_eq!(view.body["branches"], json!([]), "something registered");
}

#[tokio::test]
async fn m11_votes_that_contradict_come_late_or_too_early() {
    let fixture = Fixture::start().await;
    let xid = fixture.began(json!({ "mode": "two_phase" })).await;
    for key in ["a", "b"] {
        assert_eq!(fixture.register(&xid, &early(key)).await.status, 201);
    }
    for (key, vote, code) in [
        ("a", "yes", "invalid_request"),
        ("", "prepared", "invalid_name"),
        ("nobody", "prepared", "branch_not_found"),
        // Only as the answer to a prepare.
        ("a", "read_only", "illegal_transition"),
    ] {
        assert_eq!(fixture.vote(&xid, key, vote).await.code(), code, "{key} {vote}");
    }
    assert_eq!(fixture.grpc_vote(&xid, "a", v1::Vote::Unspecified).await.as_deref(), Some("invalid_request"));
    assert_eq!(fixture.grpc_vote(&xid, "a", v1::Vote::ReadOnly).await.as_deref(), Some("illegal_transition"));
    for _ in 0..2 {
        let voted = fixture.vote(&xid, "a", "prepared").await;
        assert_eq!((voted.status, voted.text("status").as_str()), (200, "active"), "{voted:?}");
        assert_eq!(fixture.grpc_vote(&xid, "a", v1::Vote::Prepared).await, None);
    }
    let other = fixture.vote(&xid, "a", "refused").await;
    assert_eq!((other.code().as_str(), other.status), ("vote_contradicts", 409));
    assert_eq!(fixture.grpc_vote(&xid, "a", v1::Vote::Refused).await.as_deref(), Some("vote_contradicts"));
    // A refusal decides; what comes after it is told so.
    let refused = fixture.vote(&xid, "b", "refused").await;
    assert_eq!(refused.text("abort_reason"), "refused");
    for key in ["a", "b"] {
        let opposite = if key == "a" { "refused" } else { "prepared" };
        let late = fixture.vote(&xid, key, opposite).await;
        assert_eq!(
            (late.code().as_str(), late.text("abort_reason").as_str()),
            ("already_decided", "refused")
        );
    }
    assert_eq!(fixture.vote(&xid, "b", "refused").await.status, 200, "the same again");
    // A vote for an xid that nobody knows is an abort (protocol C2).
    let unknown = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let presumed = fixture.vote(unknown, "a", "prepared").await;
    assert_eq!(
        (presumed.code().as_str(), presumed.text("abort_reason").as_str()),
        ("already_decided", "presumed")
    );
    // A TCC branch has no vote of its own.
    let tcc = fixture.begin().await;
    let stock = Callback::start().await;
    assert_eq!(fixture.branch(&tcc, "stock", &stock).await.status, 201);
    assert_eq!(fixture.vote(&tcc, "stock", "prepared").await.code(), "branch_kind_not_allowed");
}

/// From its dispatch on a pivot has no way back (protocol H14), and a delegate has the word (H4).
#[tokio::test]
async fn h14_h4_aborts_that_nobody_can_carry_out() {
    let fixture = Fixture::start().await;
    let mut client = fixture.grpc().await;
    let bank = Callback::start().await;
    bank.answer_with(http::StatusCode::SERVICE_UNAVAILABLE);
    let pay = json!({ "name": "pay", "action": { "url": bank.url("action") }, "role": "pivot" });
    let saga = fixture.began(json!({ "mode": "saga", "steps": [pay] })).await;
    let single = fixture.began(json!({ "mode": "two_phase" })).await;
    let body = json!({ "key": "a", "one_phase": true, "prepare": { "url": bank.url("prepare") },
        "commit": { "url": bank.url("commit") }, "rollback": { "url": bank.url("rollback") } });
    assert_eq!(fixture.register(&single, &body).await.status, 201);
    let path = format!("/v1/transactions/{single}/commit");
    let commit = async {
        let _ = fixture.post(&path, &json!({ "votes": ["a"] })).await;
    };
    let refused = async {
        // Until the commit, and the pivot, are on their way.
        let count =
            |operation: &str| bank.calls().iter().filter(|call| call["operation"] == operation).count();
        while count("commit_one_phase") == 0 || count("action") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        for (xid, code) in [(&saga, "no_way_back"), (&single, "delegated")] {
            let answer = fixture.post(&format!("/v1/transactions/{xid}/abort"), &json!({})).await;
            assert_eq!((answer.code().as_str(), answer.status), (code, 409));
            let by = json!({ "operator": "ada", "reason": "enough" });
            let answer = fixture.post(&format!("/v1/transactions/{xid}/abort"), &by).await;
            assert_eq!(answer.code(), code, "an operator has no other word");
            let request = v1::AbortRequest { xid: xid.clone(), ..Default::default() };
            assert_eq!(grpc_code(&client.abort(request).await.expect_err("refused")), code);
        }
        assert_eq!(fixture.vote(&single, "a", "prepared").await.code(), "delegated");
        let late = fixture.register(&single, &early("late")).await;
        assert_eq!(late.code(), "delegated");
        bank.answer_with(http::StatusCode::OK);
    };
    tokio::join!(commit, refused);
    for xid in [saga, single] {
        let end = fixture.get(&format!("/v1/transactions/{xid}?wait=finished&wait_ms=20000")).await;
        assert_eq!(end.text("status"), "committed", "{end:?}");
    }
}
