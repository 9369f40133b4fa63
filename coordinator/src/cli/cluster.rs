//! `unanimity cluster`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use unanimity_proto::v1;

use super::client::{Addr, explain};
use super::output::{Output, safe, table};

/// Flags of `cluster`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity cluster
  unanimity cluster --addr http://10.0.0.5:7460 --json

Exit status 1 if a partition does not run.")]
pub(super) struct Cluster {
    #[command(flatten)]
    addr: Addr,
}

impl Cluster {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.addr.connect().await?;
        let info =
            client.get_info(v1::GetInfoRequest {}).await.map_err(|status| explain(&status))?.into_inner();
        let is_well = info.partition_states.iter().all(|partition| partition.state == "running");
        output.answer(|| text(&info), || value(&info));
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn text(info: &v1::Info) -> String {
    let rows: Vec<Vec<String>> = info
        .partition_states
        .iter()
        .map(|partition| {
            let position = partition.position.unwrap_or_default();
            vec![
                partition.partition.to_string(),
                partition.state.clone(),
                partition.open_transactions.to_string(),
                position.epoch.to_string(),
                position.seq.to_string(),
                safe(&partition.detail),
            ]
        })
        .collect();
    format!(
        "node     {}\nversion  {}\nlog id   {}\n\n{}",
        safe(&info.node),
        info.version,
        info.log_id,
        table(&["PARTITION", "STATE", "OPEN", "EPOCH", "BLOCK", "WHY"], &rows)
    )
}

fn value(info: &v1::Info) -> serde_json::Value {
    let partitions: Vec<_> = info
        .partition_states
        .iter()
        .map(|partition| {
            let position = partition.position.unwrap_or_default();
            json!({
                "partition": partition.partition,
                "state": partition.state,
                "detail": partition.detail,
                "open_transactions": partition.open_transactions,
                "epoch": position.epoch,
                "seq": position.seq,
            })
        })
        .collect();
    json!({
        "node": info.node,
        "version": info.version,
        "log_id": info.log_id,
        "partitions": info.partitions,
        "partition_states": partitions,
    })
}
