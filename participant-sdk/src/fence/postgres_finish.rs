//! The text that ends a transaction in PostgreSQL: what is left to write, whether it may commit, and
//! the commit, in one message.
//!
//! A message of several statements takes no parameters. What goes into its text is hexadecimal digits,
//! numbers, and words of our own, whatever the session's `standard_conforming_strings`.

use std::fmt::{Display, Write as _};

use crate::fence::row::{Claim, Closing};

/// Fails unless the transaction is the one that set it: the setting ends with its transaction.
const IS_OURS: &str = "current_setting('unanimity.fence', true) IS NOT DISTINCT FROM 'open'";

/// Of the row, no column that an index has is changed: the new version stays on its page.
pub(super) fn closing_sql(claim: &Claim, closing: Closing<'_>) -> String {
    let Closing { answer, registered } = closing;
    if answer.is_none() && registered.is_none() {
        return format!("SELECT 1 / CAST({IS_OURS} AS int); COMMIT AND CHAIN");
    }
    let mut set = Vec::new();
    if let Some(answer) = answer {
        set.push(format!("answer = {}", bytes(answer)));
    }
    if let Some((log_id, position)) = registered {
        if let Some(log_id) = log_id {
            set.push(format!("log_id = '{}'", log_id.0.hyphenated()));
        }
        set.push(format!("witness_partition = {}", number(position.map(|at| at.partition.0))));
        set.push(format!("witness_epoch = {}", number(position.map(|at| at.epoch.0.cast_signed()))));
        set.push(format!("witness_epoch_tag = {}", number(position.map(|at| at.epoch_tag))));
        set.push(format!("witness_seq = {}", number(position.map(|at| at.seq.0.cast_signed()))));
    }
    format!(
        "WITH done AS (UPDATE unanimity_fence SET {} WHERE xid = '{}' AND branch_key = convert_from({}, 'UTF8') \
         AND state = '{}' RETURNING 1) \
         SELECT 1 / CAST(count(*) = 1 AND {IS_OURS} AS int) FROM done; COMMIT AND CHAIN",
        set.join(", "),
        claim.xid.uuid().hyphenated(),
        bytes(claim.key.as_str().as_bytes()),
        claim.to.as_str(),
    )
}

fn bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 16);
    text.push_str("decode('");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str("', 'hex')");
    text
}

fn number(number: Option<impl Display>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}
