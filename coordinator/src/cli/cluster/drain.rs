//! `unanimity cluster drain` and `undrain`

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use unanimity_proto::v1;

use crate::cli::client::{Addr, explain, operator_name};
use crate::cli::output::Output;

/// How long `--wait` waits: longer than any hand-over, with calls to participants that take their time.
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which node, who says so, and why.
#[derive(Debug, Args)]
struct About {
    #[command(flatten)]
    addr: Addr,
    /// The node's name, as `unanimity cluster` tells it.
    node: String,
    /// Why; it is written to the log lines of the node that is asked.
    #[arg(long, default_value = "none given")]
    reason: String,
    /// Who you are; the name of your login if not given.
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// Flags of `cluster drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity cluster drain shop-2 --reason 'new kernel' --wait

It stays drained, over restarts too, until `unanimity cluster undrain`. The last node that is left keeps what it has.")]
pub(super) struct Drain {
    #[command(flatten)]
    about: About,
    /// Answer when the node owns nothing any more.
    #[arg(long)]
    wait: bool,
}

/// Flags of `cluster undrain`.
#[derive(Debug, Args)]
pub(super) struct Undrain {
    #[command(flatten)]
    about: About,
}

impl Drain {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let Self { about, wait } = self;
        about.say(true).await?;
        let until = Instant::now() + WAIT_MAX;
        let mut left = about.owned().await?;
        // A node looks at its cluster every few seconds: what it owned at first says little.
        while wait && left > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            left = about.owned().await?;
        }
        let node = &about.node;
        output.answer(
            || match left {
                0 => format!("{node} is drained"),
                1 => format!("{node} drains: it still owns 1 partition"),
                left => format!("{node} drains: it still owns {left} partitions"),
            },
            || json!({ "node": node, "draining": true, "partitions": left }),
        );
        Ok(if wait && left > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Undrain {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        self.about.say(false).await?;
        let node = &self.about.node;
        output
            .answer(|| format!("{node} gets its share again"), || json!({ "node": node, "draining": false }));
        Ok(ExitCode::SUCCESS)
    }
}

impl About {
    async fn say(&self, draining: bool) -> anyhow::Result<()> {
        let request = v1::DrainNodeRequest {
            node: self.node.clone(),
            draining,
            operator: operator_name(self.operator.as_deref()),
            reason: self.reason.clone(),
        };
        let mut client = self.addr.connect().await?;
        client.drain_node(request).await.map_err(|status| explain(&status))?;
        Ok(())
    }

    /// How many partitions the node owns.
    async fn owned(&self) -> anyhow::Result<u32> {
        let mut client = self.addr.connect().await?;
        let cluster =
            client.get_cluster(v1::GetClusterRequest {}).await.map_err(|status| explain(&status))?;
        let nodes = cluster.into_inner().nodes;
        let node = nodes.into_iter().find(|row| row.node == self.node);
        Ok(node.map_or(0, |row| row.partitions))
    }
}
