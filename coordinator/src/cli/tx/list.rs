//! `unanimity tx list`

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use unanimity_proto::v1;
use unanimity_types::{Mode, Status};

use crate::api::parse_duration;
use crate::cli::client::{Addr, explain};
use crate::cli::output::{Output, ago, moment_json, safe, table};

/// Flags of `tx list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity tx list --attention
  unanimity tx list --status committing --older-than 5m
  unanimity tx list --mode saga --attention
  unanimity tx list --participant payment --limit 500 --json")]
pub(in crate::cli) struct List {
    #[command(flatten)]
    addr: Addr,
    /// Only this status: active, preparing, committing, committed, aborting, aborted.
    #[arg(long)]
    status: Option<Status>,
    /// Only this mode: tcc, saga, `two_phase`, message.
    #[arg(long)]
    mode: Option<Mode>,
    /// Only this name.
    #[arg(long)]
    name: Option<String>,
    /// Only with a branch at this participant.
    #[arg(long)]
    participant: Option<String>,
    /// Only begun at least so long ago: 30s, 5m, 2h, 7d.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    older_than: Option<Duration>,
    /// Only what needs attention.
    #[arg(long)]
    attention: bool,
    /// At most so many, up to 500.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// From the page before.
    #[arg(long, default_value = "", hide_default_value = true)]
    cursor: String,
}

impl List {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::ListTransactionsRequest {
            status: self.status.map_or(v1::Status::Unspecified, v1::Status::from) as i32,
            mode: self.mode.map_or(v1::Mode::Unspecified, v1::Mode::from) as i32,
            name: self.name.unwrap_or_default(),
            participant: self.participant.unwrap_or_default(),
            older_than_ms: self
                .older_than
                .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            attention: self.attention,
            cursor: self.cursor,
            limit: self.limit,
        };
        let mut client = self.addr.connect().await?;
        let page = client.list_transactions(request).await.map_err(|status| explain(&status))?.into_inner();
        output.answer(|| text(&page), || value(&page));
        Ok(ExitCode::SUCCESS)
    }
}

fn text(page: &v1::ListTransactionsResponse) -> String {
    if page.transactions.is_empty() {
        return "No transactions.".to_owned();
    }
    let rows: Vec<Vec<String>> = page
        .transactions
        .iter()
        .map(|transaction| {
            vec![
                transaction.xid.clone(),
                mode_word(transaction.mode).unwrap_or_else(|| "-".to_owned()),
                status_word(transaction.status),
                ago(transaction.begun_at_ms),
                if transaction.name.is_empty() { "-".to_owned() } else { safe(&transaction.name) },
                why(transaction),
            ]
        })
        .collect();
    let mut text = table(&["XID", "MODE", "STATUS", "BEGUN", "NAME", "WHY"], &rows);
    if !page.next_cursor.is_empty() {
        text.push_str(&format!("\nThere are more: --cursor {}", page.next_cursor));
    }
    text
}

/// What somebody wants to know first: attention, else why it was aborted.
fn why(transaction: &v1::Transaction) -> String {
    match &transaction.attention {
        Some(attention) => format!("attention: {}", safe(&attention.message)),
        None => transaction.abort_reason.clone(),
    }
}

fn value(page: &v1::ListTransactionsResponse) -> serde_json::Value {
    let transactions: Vec<_> = page
        .transactions
        .iter()
        .map(|transaction| {
            json!({
                "xid": transaction.xid,
                "mode": mode_word(transaction.mode),
                "name": transaction.name,
                "status": status_word(transaction.status),
                "abort_reason": optional(&transaction.abort_reason),
                "begun_at": moment_json(transaction.begun_at_ms),
                "decided_at": moment_json(transaction.decided_at_ms),
                "finished_at": moment_json(transaction.finished_at_ms),
                "attention": transaction.attention.as_ref().map(|attention| json!({
                    "code": attention.code,
                    "message": attention.message,
                    "since": moment_json(attention.since_ms),
                })),
                "partition": transaction.partition,
            })
        })
        .collect();
    json!({ "transactions": transactions, "next_cursor": optional(&page.next_cursor) })
}

/// An empty text of the wire as nothing.
pub(super) fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A status of the wire as its word.
pub(super) fn status_word(number: i32) -> String {
    let status = v1::Status::try_from(number).ok().and_then(v1::Status::to_domain);
    status.map_or_else(|| format!("unknown ({number})"), |status| status.to_string())
}

/// A mode of the wire as its word; none for a presumed abort.
pub(super) fn mode_word(number: i32) -> Option<String> {
    let mode = v1::Mode::try_from(number).ok()?;
    Mode::try_from(mode).ok().map(|mode| mode.to_string())
}
