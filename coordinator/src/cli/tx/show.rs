//! `unanimity tx show`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use unanimity_proto::v1;
use unanimity_types::{Timestamp, Xid};

use super::list::{mode_word, optional, status_word};
use crate::api::{parse_duration, rfc3339};
use crate::cli::client::{Addr, explain};
use crate::cli::output::{Output, ago, moment, moment_json, safe, table};

/// Flags of `tx show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity tx show 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f
  unanimity tx show 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f --wait finished --for 10s --json")]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    addr: Addr,
    /// The transaction.
    xid: Xid,
    /// Wait until it is so.
    #[arg(long)]
    wait: Option<Until>,
    /// Wait at most so long.
    #[arg(long = "for", value_parser = parse_duration, default_value = "30s", value_name = "DURATION")]
    limit: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Until {
    Decided,
    Finished,
}

impl Show {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::GetTransactionRequest {
            xid: self.xid.to_string(),
            wait: match self.wait {
                None => v1::Wait::Unspecified,
                Some(Until::Decided) => v1::Wait::Decided,
                Some(Until::Finished) => v1::Wait::Finished,
            } as i32,
            wait_ms: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX),
        };
        let mut client = self.addr.connect().await?;
        let found = client.get_transaction(request).await.map_err(|status| explain(&status))?.into_inner();
        output.answer(|| text(&found), || value(&found));
        Ok(ExitCode::SUCCESS)
    }
}

fn text(found: &v1::Transaction) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<10}{value}");
        }
    };
    line("xid", &found.xid);
    line("name", &safe(&found.name));
    line("mode", &mode_word(found.mode).unwrap_or_else(|| "none: presumed aborted, never begun".to_owned()));
    line("status", &status_word(found.status));
    line("why", &found.abort_reason);
    line("begun", &moment(found.begun_at_ms));
    if found.decided_at_ms == 0 {
        line("deadline", &moment(found.deadline_ms));
    } else {
        line("decided", &moment(found.decided_at_ms));
        if found.finished_at_ms > 0 {
            line("finished", &moment(found.finished_at_ms));
        }
    }
    line("partition", &found.partition.to_string());
    if let Some(attention) = &found.attention {
        let since = ago(attention.since_ms);
        line("attention", &format!("{}: {} (since {since})", attention.code, safe(&attention.message)));
    }
    if !found.branches.is_empty() {
        text.push('\n');
        text.push_str(&branches(&found.branches));
    }
    if !found.timeline.is_empty() {
        text.push('\n');
        text.push_str(&timeline(&found.timeline));
    }
    text
}

fn branches(branches: &[v1::Branch]) -> String {
    let rows: Vec<Vec<String>> = branches
        .iter()
        .map(|branch| {
            let note = if branch.resolved_by.is_empty() {
                safe(&branch.last_error)
            } else {
                format!("by {}: {}", safe(&branch.resolved_by), safe(&branch.resolved_reason))
            };
            vec![
                branch.branch_id.to_string(),
                safe(&branch.key),
                branch.status.clone(),
                branch.attempts.to_string(),
                ago(branch.next_attempt_at_ms),
                safe(&branch.target),
                note,
            ]
        })
        .collect();
    table(&["BRANCH", "KEY", "STATUS", "ATTEMPTS", "NEXT", "TARGET", "NOTE"], &rows)
}

fn timeline(entries: &[v1::TimelineEntry]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let branch = if entry.branch_id == 0 { "-".to_owned() } else { entry.branch_id.to_string() };
            vec![rfc3339(Timestamp(entry.at_ms)), entry.event.clone(), branch, safe(&entry.detail)]
        })
        .collect();
    table(&["AT", "EVENT", "BRANCH", "DETAIL"], &rows)
}

fn value(found: &v1::Transaction) -> serde_json::Value {
    let branches: Vec<_> = found
        .branches
        .iter()
        .map(|branch| {
            json!({
                "branch_id": branch.branch_id,
                "key": branch.key,
                "target": branch.target,
                "status": branch.status,
                "attempts": branch.attempts,
                "last_error": optional(&branch.last_error),
                "next_attempt_at": moment_json(branch.next_attempt_at_ms),
                "resolved_by": optional(&branch.resolved_by),
                "resolved_reason": optional(&branch.resolved_reason),
            })
        })
        .collect();
    let timeline: Vec<_> = found
        .timeline
        .iter()
        .map(|entry| {
            json!({
                "at": moment_json(entry.at_ms),
                "event": entry.event,
                "branch_id": (entry.branch_id > 0).then_some(entry.branch_id),
                "detail": optional(&entry.detail),
            })
        })
        .collect();
    json!({
        "xid": found.xid,
        "mode": mode_word(found.mode),
        "name": found.name,
        "status": status_word(found.status),
        "decision": optional(&found.decision),
        "abort_reason": optional(&found.abort_reason),
        "begun_at": moment_json(found.begun_at_ms),
        "deadline": moment_json(found.deadline_ms),
        "decided_at": moment_json(found.decided_at_ms),
        "finished_at": moment_json(found.finished_at_ms),
        "partition": found.partition,
        "attention": found.attention.as_ref().map(|attention| json!({
            "code": attention.code,
            "message": attention.message,
            "since": moment_json(attention.since_ms),
        })),
        "branches": branches,
        "timeline": timeline,
    })
}
