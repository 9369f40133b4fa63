//! The real binary's `check participant`.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::toy::{AMOUNT, Toy};

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Said {
    pub(crate) fn has_earned(&self, guarantee: &str) -> bool {
        let earned = &self.report["guarantees"][guarantee]["earned"];
        earned.as_bool().unwrap_or_else(|| panic!("no {guarantee} in {self:#?}"))
    }

    /// The verdict of a scenario.
    pub(crate) fn verdict(&self, scenario: &str) -> &str {
        let all = self.report["scenarios"].as_array().expect("scenarios");
        let found = all.iter().find(|one| one["name"] == scenario);
        found.unwrap_or_else(|| panic!("no {scenario} in {self:#?}"))["verdict"].as_str().expect("a verdict")
    }
}

pub(crate) async fn unanimity(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_unanimity"));
    command.args(["check", "participant"]).args(arguments).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(120), command.output()).await.expect("in time").expect("it runs")
}

/// Checks a toy of `mode`.
pub(crate) async fn check(toy: &Toy, mode: &str, is_observed: bool) -> Said {
    let payload = format!("{{\"amount\": {AMOUNT}}}");
    let observe = format!("{}/observed", toy.url);
    let work = match mode {
        "two_phase" => Some(format!("{}/work", toy.url)),
        "sender" => Some(format!("{}/local_transaction", toy.url)),
        _ => None,
    };
    let mut arguments = vec![toy.url.as_str(), "--mode", mode, "--payload", &payload, "--json"];
    if let Some(work) = &work {
        arguments.extend(["--try", work]);
    }
    if is_observed {
        arguments.extend(["--observe", &observe]);
    }
    let output = unanimity(&arguments).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    Said { code: output.status.code(), report }
}
