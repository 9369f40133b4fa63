//! `unanimity cluster move`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_proto::v1;

use crate::cli::client::{Addr, Operator, explain};
use crate::cli::output::Output;

/// Flags of `cluster move`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity cluster move 3 b --reason 'home is full'

Moves a partition's log to another PostgreSQL server of the log, while it works: for about as long as it takes to copy
what is open, calls for that partition wait. The server must have joined by `unanimity migrate`, and every node must know
its address (`database.servers`). Interrupted, it goes on by itself. The action is recorded in the log.")]
pub(super) struct Move {
    #[command(flatten)]
    addr: Addr,
    /// The partition's number.
    partition: u16,
    /// The server's name: `home`, or one of `database.servers`.
    server: String,
    #[command(flatten)]
    by: Operator,
}

impl Move {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::MovePartitionRequest {
            partition: u32::from(self.partition),
            server: self.server.clone(),
            operator: self.by.name(),
            reason: self.by.reason,
        };
        let mut client = self.addr.connect().await?;
        let answer = client.move_partition(request).await.map_err(|status| explain(&status))?.into_inner();
        let position = answer.position.unwrap_or_default();
        output.answer(
            || format!("partition {} goes on at {} from block {}", self.partition, self.server, position.seq),
            || json!({ "partition": self.partition, "server": self.server, "epoch": position.epoch, "seq": position.seq }),
        );
        Ok(ExitCode::SUCCESS)
    }
}
