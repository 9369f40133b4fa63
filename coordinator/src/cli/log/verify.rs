//! `unanimity log verify`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_types::{PartitionId, Seq};

use super::{is_elsewhere, open_on};
use crate::cli::output::{Output, table};
use crate::cli::settings::Settings;
use crate::engine::decode;
use crate::log::{Block, BlockKind, Error, TransactionLog};

/// Flags of `log verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity log verify --database-url postgres://unanimity@db/unanimity
  unanimity log verify --data-dir ./unanimity-data --json

Exit status 1 if a block is damaged or missing; docs/errors/log_damaged.md says what to do then.
Works beside a running coordinator: takes no lock, writes nothing.")]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    settings: Settings,
    /// Only what stands on this server of the log, wherever its partitions are now.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
}

/// What was found in one partition.
struct Finding {
    partition: PartitionId,
    blocks: usize,
    epochs: usize,
    events: usize,
    bytes: usize,
    floor: Seq,
    last: Seq,
    damage: Option<String>,
}

impl Verify {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let config = self.settings.load(None)?;
        let server = self.server.as_deref();
        let log = open_on(&config, server).await?;
        let mut findings = Vec::new();
        for partition in (0..log.identity().partitions).map(PartitionId) {
            findings.extend(verify(log.as_ref(), partition, server).await?);
        }
        let place = log.describe();
        log.close().await;
        let damaged = findings.iter().filter(|finding| finding.damage.is_some()).count();
        output.answer(
            || {
                let verdict = match damaged {
                    0 => format!("{place}: every block is as it was written."),
                    count => format!("{place}: {count} partitions are damaged; see docs/errors/log_damaged.md."),
                };
                format!("{}\n{verdict}", text(&findings))
            },
            || json!({ "ok": damaged == 0, "log": place, "partitions": findings.iter().map(value).collect::<Vec<_>>() }),
        );
        Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn verify(
    log: &dyn TransactionLog,
    partition: PartitionId,
    server: Option<&str>,
) -> anyhow::Result<Option<Finding>> {
    match log.read(partition).await {
        Ok(blocks) => Ok(Some(examine(partition, &blocks))),
        Err(error) if is_elsewhere(server, &error) => Ok(None),
        Err(Error::Damaged { seq, what, .. }) => {
            let damage = Some(format!("block {seq}: {what}"));
            Ok(Some(Finding {
                partition,
                blocks: 0,
                epochs: 0,
                events: 0,
                bytes: 0,
                floor: Seq(0),
                last: seq,
                damage,
            }))
        }
        Err(error) => Err(error.into()),
    }
}

/// The log's own `read` has checked checksums, chain and completeness; whether the events in the
/// blocks can be read is left.
fn examine(partition: PartitionId, blocks: &[Block]) -> Finding {
    let mut finding = Finding {
        partition,
        blocks: blocks.len(),
        epochs: 0,
        events: 0,
        bytes: 0,
        floor: blocks.last().map_or(Seq(0), |block| block.floor),
        last: blocks.last().map_or(Seq(0), |block| block.seq),
        damage: None,
    };
    for block in blocks {
        finding.bytes += block.bytes();
        match block.kind {
            BlockKind::Epoch => finding.epochs += 1,
            BlockKind::Data => match decode(block) {
                Ok(events) => finding.events += events.len(),
                Err(error) => {
                    finding.damage.get_or_insert_with(|| format!("block {}: {error}", block.seq));
                }
            },
            BlockKind::Birth | BlockKind::Closing | BlockKind::Sealing => {}
        }
    }
    finding
}

fn text(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.partition.to_string(),
                finding.blocks.to_string(),
                finding.epochs.to_string(),
                finding.events.to_string(),
                finding.bytes.to_string(),
                finding.floor.to_string(),
                finding.last.to_string(),
                finding.damage.clone().unwrap_or_else(|| "whole".to_owned()),
            ]
        })
        .collect();
    table(&["PARTITION", "BLOCKS", "EPOCHS", "EVENTS", "BYTES", "FLOOR", "LAST", "VERDICT"], &rows)
}

fn value(finding: &Finding) -> serde_json::Value {
    json!({
        "partition": finding.partition.0,
        "blocks": finding.blocks,
        "epochs": finding.epochs,
        "events": finding.events,
        "bytes": finding.bytes,
        "floor": finding.floor.0,
        "last": finding.last.0,
        "ok": finding.damage.is_none(),
        "damage": finding.damage,
    })
}
