//! `unanimity log restored`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_proto::v1;

use crate::cli::client::{Addr, Operator, explain};
use crate::cli::output::Output;

/// Flags of `log restored`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity log restored --reason 'restored from the backup of 02:00'

After the log's database was restored from a backup, and before participants are let go on: what was decided after
the backup is unknown now, so nothing of it may be presumed aborted. Says so on every partition, also on those
that stopped because a participant noticed. Each begins a new epoch; transactions that nobody knows are answered
`forgotten` if they may be from before (docs/errors/forgotten.md). The action is recorded in the log.")]
pub(in crate::cli) struct Restored {
    #[command(flatten)]
    addr: Addr,
    /// Only this partition: of those that were on the restored server, if the log has several.
    #[arg(long)]
    partition: Option<u16>,
    #[command(flatten)]
    by: Operator,
}

impl Restored {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.addr.connect().await?;
        let partitions: Vec<u32> = match self.partition {
            Some(partition) => vec![u32::from(partition)],
            None => {
                let info = client.get_info(v1::GetInfoRequest {}).await.map_err(|status| explain(&status))?;
                (0..info.into_inner().partitions).collect()
            }
        };
        let operator = self.by.name();
        let mut done = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (operator, reason) = (operator.clone(), self.by.reason.clone());
            let request = v1::RecordRestoredRequest { partition, operator, reason };
            let answer = client.record_restored(request).await.map_err(|status| {
                explain(&status)
                    .context(format!("partition {partition}; {} are done: say it again", done.len()))
            })?;
            done.push((partition, answer.into_inner().position.unwrap_or_default()));
        }
        output.answer(
            || {
                let line = |(partition, position): &(u32, v1::LogPosition)| {
                    format!("partition {partition} goes on in epoch {} from block {}", position.epoch, position.seq)
                };
                done.iter().map(line).collect::<Vec<_>>().join("\n")
            },
            || {
                let value = |(partition, position): &(u32, v1::LogPosition)| {
                    json!({ "partition": partition, "epoch": position.epoch, "seq": position.seq })
                };
                json!({ "partitions": done.iter().map(value).collect::<Vec<_>>() })
            },
        );
        Ok(ExitCode::SUCCESS)
    }
}
