//! `unanimity log dump`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_types::{PartitionId, Seq, Xid};

use super::event::describe;
use super::{is_elsewhere, open_on};
use crate::api::rfc3339;
use crate::cli::Usage;
use crate::cli::output::{Output, safe};
use crate::cli::settings::Settings;
use crate::engine::{LoggedEvent, decode};
use crate::log::{Block, BlockKind, Error, TransactionLog};

/// Flags of `log dump`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity log dump --data-dir ./unanimity-data
  unanimity log dump --partition 3 --from 1000 --json
  unanimity log dump --xid 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f

With --json each block is one line. Payloads are told by their size only. A damaged log is dumped block by
block, damaged ones included. Works beside a running coordinator: takes no lock, writes nothing.")]
pub(in crate::cli) struct Dump {
    #[command(flatten)]
    settings: Settings,
    /// Only what stands on this server of the log, wherever its partitions are now.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<u16>,
    /// Only from this block on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only events of this transaction.
    #[arg(long)]
    xid: Option<Xid>,
}

impl Dump {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let config = self.settings.load(None)?;
        let server = self.server.as_deref();
        let log = open_on(&config, server).await?;
        let count = log.identity().partitions;
        if let Some(partition) = self.partition
            && partition >= count
        {
            return Err(
                Usage(format!("--partition {partition}: the log has {count} partitions, from 0")).into()
            );
        }
        let mut is_whole = true;
        for partition in (0..count).filter(|partition| self.partition.is_none_or(|only| only == *partition)) {
            is_whole &= self.dump(log.as_ref(), PartitionId(partition), output).await?;
        }
        log.close().await;
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Prints one partition. Answers whether it is whole.
    async fn dump(
        &self,
        log: &dyn TransactionLog,
        partition: PartitionId,
        output: &Output,
    ) -> anyhow::Result<bool> {
        match log.read(partition).await {
            Err(error) if is_elsewhere(self.server.as_deref(), &error) => Ok(true),
            Ok(blocks) => {
                for block in &blocks {
                    self.print(block, output);
                }
                Ok(true)
            }
            Err(Error::Damaged { seq, what, .. }) => {
                tell_damage(output, partition, seq, &what);
                // What is there all the same, up to the last block that the log knows of.
                let last = match log.tip(partition).await {
                    Ok(tip) => tip.seq,
                    Err(_) => seq,
                };
                for at in self.from..=last.0 {
                    if let Ok(Some(block)) = log.block_at(partition, Seq(at)).await {
                        self.print(&block, output);
                    }
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn print(&self, block: &Block, output: &Output) {
        if block.seq.0 < self.from {
            return;
        }
        let damage = block.verify().err().map(|damaged| damaged.to_string());
        let (events, unreadable) = match block.kind {
            BlockKind::Data => match decode(block) {
                Ok(events) => (events, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            },
            BlockKind::Birth | BlockKind::Epoch | BlockKind::Closing | BlockKind::Sealing => {
                (Vec::new(), None)
            }
        };
        let events: Vec<_> = events
            .iter()
            .filter(|logged| match (&logged.what, self.xid) {
                (_, None) => true,
                (LoggedEvent::Transaction(xid, _), Some(only)) => *xid == only,
                (LoggedEvent::Partition(_), Some(_)) => false,
            })
            .collect();
        if self.xid.is_some() && events.is_empty() {
            return;
        }
        let problem = damage.or(unreadable);
        output.line(
            || {
                let mut text = format!(
                    "{}/{} epoch {} {} {} floor {} {} bytes {}",
                    block.partition,
                    block.seq,
                    block.epoch,
                    kind_word(block.kind),
                    rfc3339(block.time),
                    block.floor,
                    block.bytes(),
                    block.checksum,
                );
                if let Some(problem) = &problem {
                    text.push_str(&format!("\n    DAMAGED: {problem}"));
                }
                for logged in &events {
                    let told = describe(&logged.what);
                    let fields: Vec<String> =
                        told.fields.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
                    let xid = told.xid.map(|xid| format!("{xid} ")).unwrap_or_default();
                    let line = format!("    {} {xid}{} {}", rfc3339(logged.at), told.word, fields.join(" "));
                    text.push('\n');
                    text.push_str(line.trim_end());
                }
                text
            },
            || {
                let events: Vec<_> = events
                    .iter()
                    .map(|logged| {
                        let told = describe(&logged.what);
                        let fields: serde_json::Map<_, _> =
                            told.fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                        json!({
                            "at": rfc3339(logged.at),
                            "xid": told.xid.map(|xid| xid.to_string()),
                            "event": told.word,
                            "fields": fields,
                        })
                    })
                    .collect();
                json!({
                    "partition": block.partition.0,
                    "seq": block.seq.0,
                    "epoch": block.epoch.0,
                    "kind": kind_word(block.kind),
                    "time": rfc3339(block.time),
                    "floor": block.floor.0,
                    "bytes": block.bytes(),
                    "checksum": block.checksum.to_string(),
                    "previous": block.previous.to_string(),
                    "damage": problem,
                    "events": events,
                })
            },
        );
    }
}

fn tell_damage(output: &Output, partition: PartitionId, seq: Seq, what: &str) {
    output.line(
        || format!("partition {partition} is damaged at block {seq}: {what}\nwhat is there all the same:"),
        || json!({ "partition": partition.0, "seq": seq.0, "damage": what }),
    );
}

fn kind_word(kind: BlockKind) -> &'static str {
    match kind {
        BlockKind::Birth => "birth",
        BlockKind::Epoch => "epoch",
        BlockKind::Data => "data",
        BlockKind::Closing => "closing",
        BlockKind::Sealing => "sealing",
    }
}

/// A value without quotes where none are needed, and without control characters.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if !text.contains(' ') && !text.is_empty() => safe(text),
        other => other.to_string(),
    }
}
