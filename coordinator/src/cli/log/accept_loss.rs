//! `unanimity log accept-loss`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_proto::v1;

use crate::cli::client::{Addr, Operator, explain};
use crate::cli::output::Output;

/// Flags of `log accept-loss`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity log accept-loss 3 --reason 'restored from the backup of 02:00, participants were checked'

A participant showed a place that the log never had: decisions that somebody was told are gone. Read
docs/errors/log_lost_tail.md first: transactions of that time must be compared with the participants' own
records. The action is recorded in the log, with your name and reason.")]
pub(in crate::cli) struct AcceptLoss {
    #[command(flatten)]
    addr: Addr,
    /// The partition that stopped, as `unanimity cluster` tells it.
    partition: u16,
    #[command(flatten)]
    by: Operator,
}

impl AcceptLoss {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::AcceptLossRequest {
            partition: u32::from(self.partition),
            operator: self.by.name(),
            reason: self.by.reason,
        };
        let mut client = self.addr.connect().await?;
        let answer = client.accept_loss(request).await.map_err(|status| explain(&status))?.into_inner();
        let position = answer.position.unwrap_or_default();
        output.answer(
            || {
                format!(
                    "partition {} goes on in epoch {} from block {}",
                    self.partition, position.epoch, position.seq
                )
            },
            || json!({ "partition": self.partition, "epoch": position.epoch, "seq": position.seq }),
        );
        Ok(ExitCode::SUCCESS)
    }
}
