//! `unanimity tx show`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use unanimity_proto::v1;
use unanimity_types::{BranchStatus, Timestamp, Xid};

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
    text.push_str(&what_to_do(found));
    if !found.timeline.is_empty() {
        text.push('\n');
        text.push_str(&timeline(&found.timeline));
    }
    text
}

/// A table with the columns that these branches have something for.
fn branches(branches: &[v1::Branch]) -> String {
    let has_steps = branches.iter().any(|branch| branch.kind() == v1::BranchKind::Step);
    let has_locks = branches.iter().any(|branch| !branch.lock_keys.is_empty());
    let mut header = vec!["BRANCH", "KEY", "KIND", "STATUS", "ATTEMPTS", "NEXT"];
    if has_steps {
        header.extend(["AFTER", "ROLE", "RESULT"]);
    }
    if has_locks {
        header.push("LOCKS");
    }
    header.extend(["TARGET", "NOTE"]);
    let rows: Vec<Vec<String>> = branches
        .iter()
        .map(|branch| {
            let mut row = vec![
                branch.branch_id.to_string(),
                safe(&branch.key),
                kind_word(branch).unwrap_or_default(),
                branch.status.clone(),
                branch.attempts.to_string(),
                if branch.parked { "parked".to_owned() } else { ago(branch.next_attempt_at_ms) },
            ];
            if has_steps {
                row.extend([
                    list(&branch.after),
                    role_word(branch).unwrap_or_default(),
                    short(&branch.result),
                ]);
            }
            if has_locks {
                row.push(list(&branch.lock_keys));
            }
            row.extend([safe(&branch.target), note(branch)]);
            row
        })
        .collect();
    table(&header, &rows)
}

fn note(branch: &v1::Branch) -> String {
    if branch.resolved_by.is_empty() {
        let went_well = branch.status.parse().is_ok_and(went_well);
        // What stopped it once does not any more.
        let earlier = if went_well && !branch.last_error.is_empty() { "earlier: " } else { "" };
        format!("{earlier}{}", safe(&branch.last_error))
    } else {
        format!("by {}: {}", safe(&branch.resolved_by), safe(&branch.resolved_reason))
    }
}

/// Whether the branch's participant did in the end what was asked of it.
const fn went_well(status: BranchStatus) -> bool {
    matches!(
        status,
        BranchStatus::Confirmed
            | BranchStatus::Cancelled
            | BranchStatus::Committed
            | BranchStatus::RolledBack
            | BranchStatus::Done
            | BranchStatus::Compensated
            | BranchStatus::Answered
            | BranchStatus::Delivered
    )
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { safe(&words.join(",")) }
}

/// Enough of a result to know it again; `--json` has all of it.
fn short(result: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut shown: String = safe(result).chars().take(CHARS_MAX).collect();
    if result.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    if shown.is_empty() { "-".to_owned() } else { shown }
}

fn kind_word(branch: &v1::Branch) -> Option<String> {
    branch.kind().to_domain().map(|kind| kind.to_string())
}

fn role_word(branch: &v1::Branch) -> Option<String> {
    branch.role().to_domain().map(|role| role.to_string())
}

/// The commands for whoever looks at this at night: nothing else tries again what is parked.
fn what_to_do(found: &v1::Transaction) -> String {
    let parked: Vec<&v1::Branch> = found.branches.iter().filter(|branch| branch.parked).collect();
    let Some(first) = parked.first() else { return String::new() };
    let named: Vec<String> =
        parked.iter().map(|branch| format!("{} ({})", branch.branch_id, safe(&branch.key))).collect();
    let xid = &found.xid;
    format!(
        "\nParked: branch {}. No more attempts are made by themselves; NOTE says what stopped it. Mend that, then\n  \
         unanimity tx retry {xid} --reason 'what was mended'\nor do by hand what is owed, and say how it ended\n  \
         unanimity tx resolve {xid} {} --as {} --reason 'what was done'\n",
        named.join(", "),
        first.branch_id,
        // What is owed to it, done: undone where the saga turned back, else there.
        if found.decision == "abort" { "cancelled" } else { "confirmed" },
    )
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
                "kind": kind_word(branch),
                "target": branch.target,
                "status": branch.status,
                "parked": branch.parked,
                "attempts": branch.attempts,
                "last_error": optional(&branch.last_error),
                "next_attempt_at": moment_json(branch.next_attempt_at_ms),
                "role": role_word(branch),
                "after": (branch.kind() == v1::BranchKind::Step).then_some(&branch.after),
                "result": optional(&branch.result),
                "lock_keys": branch.lock_keys,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stopped_a_branch_once_is_told_as_earlier() {
        for (status, shown) in [
            ("compensating", "HTTP 503"),
            ("refused", "HTTP 503"),
            ("done", "earlier: HTTP 503"),
            ("compensated", "earlier: HTTP 503"),
            ("a newer word", "HTTP 503"),
        ] {
            let branch = v1::Branch {
                status: status.to_owned(),
                last_error: "HTTP 503".to_owned(),
                ..v1::Branch::default()
            };
            assert_eq!(note(&branch), shown, "{status}");
        }
        let fine = v1::Branch { status: "done".to_owned(), ..v1::Branch::default() };
        assert_eq!(note(&fine), "");
    }
}
