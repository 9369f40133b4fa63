//! Participants without a fault, and what is not a participant at all.

use serde_json::json;

use crate::command::{check, unanimity};
use crate::toy::{Fault, Toy};

const MODES: [&str; 5] = ["tcc", "saga", "two_phase", "message", "sender"];

#[tokio::test]
async fn a_good_participant_earns_every_guarantee_of_its_mode() {
    for mode in MODES {
        for is_observed in [true, false] {
            let said = check(&Toy::start(Fault::None).await, mode, is_observed).await;
            assert_eq!(said.code, Some(0), "{said:#?}");
            assert_eq!(said.report["ok"], true);
            let guarantees = said.report["guarantees"].as_object().expect("an object");
            assert!(guarantees.values().all(|guarantee| guarantee["earned"] == true), "{said:#?}");
            assert_eq!(guarantees.contains_key("compensates"), !["message", "sender"].contains(&mode));
            let other_key = if is_observed { "passed" } else { "not_run" };
            assert_eq!(said.verdict("another_key_in_the_same_transaction"), other_key, "{mode}");
        }
    }
}

#[tokio::test]
async fn operations_go_to_urls_of_their_own() {
    let toy = Toy::start(Fault::None).await;
    let urls = format!("confirm={0}/c,cancel={0}/x", toy.url);
    let payload = json!({ "amount": 1, "big": 12_345_678_901_234_567_890_u64 }).to_string();
    let output =
        unanimity(&[&toy.url, "--mode", "tcc", "--payload", &payload, "--operation-urls", &urls]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let calls = toy.calls.lock().expect("no holder panics");
    for (path, _, body) in calls.iter() {
        let expected = match body["operation"].as_str() {
            Some("confirm") => "/c",
            Some("cancel") => "/x",
            _ => "/",
        };
        assert_eq!(path, expected);
        assert_eq!(body["payload"]["big"], 12_345_678_901_234_567_890_u64, "byte by byte");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("fenced: yes, by the answers;") && text.contains("answers alone"), "{text}");
}

#[tokio::test]
async fn a_compensation_is_told_what_its_action_answered() {
    let toy = Toy::start(Fault::None).await;
    assert_eq!(check(&toy, "saga", false).await.code, Some(0));
    let calls = toy.calls.lock().expect("no holder panics");
    let told: Vec<_> = calls.iter().filter(|(_, _, body)| body["operation"] == "compensate").collect();
    let is_known = |body: &serde_json::Value| body["result"] == json!({ "booking": 0 });
    assert!(told.iter().any(|(_, _, body)| is_known(body)));
    // Nothing is known of an action that nobody called, or whose answer was not heard.
    assert!(told.iter().any(|(_, _, body)| body["result"].is_null()));
    assert!(
        told.iter()
            .all(|(_, _, body)| (is_known(body) || body["result"].is_null()) && body["inputs"] == json!({}))
    );
}

#[tokio::test]
async fn one_phase_commit_is_checked_where_it_has_a_url() {
    let toy = Toy::start(Fault::None).await;
    let urls = format!("try={0}/work,commit_one_phase={0}/one", toy.url);
    let arguments =
        [&toy.url, "--mode", "two_phase", "--payload", r#"{"amount": 2}"#, "--operation-urls", &urls];
    let output = unanimity(&arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("passed   commit_one_phase_twice"));
}

#[tokio::test]
async fn nobody_at_the_address_earns_nothing() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let output = unanimity(&[&format!("http://{free}/"), "--mode", "saga"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED   once") && text.contains("not run  action_twice"), "{text}");
    for guarantee in ["idempotent", "fenced", "compensates"] {
        assert!(text.contains(&format!("{guarantee}: NO; ")), "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_checked_is_exit_status_2() {
    for arguments in [
        &["http://127.0.0.1:1/"][..],
        &["http://127.0.0.1:1/", "--mode", "xa"],
        &["http://127.0.0.1:1/", "--mode", "tcc", "--payload", "{"],
        &["http://127.0.0.1:1/", "--mode", "tcc", "--operation-urls", "deliver=http://127.0.0.1:1/"],
        &["http://127.0.0.1:1/", "--mode", "tcc", "--operation-urls", "confirm"],
        &["http://127.0.0.1:1/", "--mode", "sender"],
        &["unix:/tmp/socket", "--mode", "tcc"],
        &["no url", "--mode", "tcc"],
        &["--mode", "tcc"],
    ] {
        let output = unanimity(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_number_that_does_not_count_is_named() {
    let toy = Toy::start(Fault::None).await;
    for (observe, why) in [("/nothing", "--observe"), ("/observed", "does not count")] {
        let url = format!("{}{observe}", toy.url);
        let output =
            unanimity(&[&toy.url, "--mode", "tcc", "--payload", r#"{"amount": 0}"#, "--observe", &url]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(why), "{output:?}");
    }
}
