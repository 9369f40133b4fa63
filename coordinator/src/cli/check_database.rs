//! `unanimity check --participant-database`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::Usage;
use super::output::{Output, safe, table};
use crate::participant_database::{Error, Findings, Prepared, look};

/// Looks and tells. Exit status 1 if two-phase branches cannot work there.
pub(super) async fn run(url: &str, output: &Output) -> anyhow::Result<ExitCode> {
    let found = match look(url).await {
        Ok(found) => found,
        Err(error @ Error::Scheme) => return Err(Usage(error.to_string()).into()),
        // The URL may have a password in it, so it is not told.
        Err(error) => return Err(error).context("cannot look at the participant's database"),
    };
    output.answer(|| text(&found), || value(&found));
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(found: &Findings) -> String {
    let mut text = match found.problems.is_empty() {
        true => format!("{}: transactions can be prepared here.\n", safe(&found.server)),
        false => format!("{}: two-phase branches cannot work here.\n", safe(&found.server)),
    };
    for problem in &found.problems {
        text.push_str(&format!("\nproblem: {problem}"));
    }
    for warning in &found.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    if found.prepared.is_empty() {
        text.push_str("\nNo prepared transaction of ours stands here.");
    } else {
        let rows: Vec<Vec<String>> = found.prepared.iter().map(row).collect();
        text.push_str(
            "\nPrepared transactions of ours; their participants finish them, nothing here was touched:\n\n",
        );
        text.push_str(&table(&["XID", "AGE", "LOG", "DATABASE", "GID"], &rows));
    }
    if found.foreign > 0 {
        text.push_str(&format!("\n{} prepared transactions are somebody else's.", found.foreign));
    }
    text
}

fn row(prepared: &Prepared) -> Vec<String> {
    vec![
        prepared.xid.clone(),
        prepared.age.map_or_else(|| "-".to_owned(), age),
        prepared.log_id.clone(),
        prepared.place.as_deref().map_or_else(|| "-".to_owned(), safe),
        prepared.gid.clone(),
    ]
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn value(found: &Findings) -> serde_json::Value {
    let prepared: Vec<_> = found
        .prepared
        .iter()
        .map(|prepared| {
            json!({
                "gid": prepared.gid,
                "xid": prepared.xid,
                "log_id": prepared.log_id,
                "age_s": prepared.age.map(|age| age.as_secs()),
                "database": prepared.place,
            })
        })
        .collect();
    json!({
        "ok": found.problems.is_empty(),
        "server": found.server,
        "problems": found.problems,
        "warnings": found.warnings,
        "prepared": prepared,
        "foreign": found.foreign,
    })
}
