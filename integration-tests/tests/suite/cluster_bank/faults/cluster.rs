//! What goes wrong with the coordinators and the ways to them, between them, and to their log.

use std::time::Duration;

use anyhow::ensure;
use integration_tests::coordinator::unanimity;
use integration_tests::proxy::{Proxy, Side, Weather};
use integration_tests::wait::until;
use tokio::time::sleep;

use super::super::stack::{Cluster, READY_LIMIT};

/// How long a coordinator may take to stop in good order.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A coordinator's lease.
const LEASE: Duration = Duration::from_secs(6);
const LATENCY: Duration = Duration::from_millis(500);
/// How wrong a clock is.
const CLOCK_OFFSET_MS: i64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum ClusterFault {
    /// SIGKILL of a coordinator; back in a moment, or when its lease is over.
    KillCoordinator,
    /// SIGSTOP of a coordinator beyond its lease: others take over, and it wakes up deposed.
    PauseCoordinator,
    /// Every coordinator is stopped in good order and started again, one after another.
    RollingRestart,
    /// A coordinator gives its partitions away at an operator's word, and takes its share again.
    Drain,
    /// What clients and banks say to a coordinator does not arrive, or what it says to them.
    CutClients,
    /// The same between the other coordinators and one.
    CutPeers,
    /// The same between a coordinator and the log's database.
    CutLog,
    /// Everything that a coordinator hears and says is late.
    Latency,
    /// A coordinator's wall clock is ten minutes early or late from its next start on.
    Clock,
}

impl ClusterFault {
    pub(super) const ALL: [Self; 9] = [
        Self::KillCoordinator,
        Self::PauseCoordinator,
        Self::RollingRestart,
        Self::Drain,
        Self::CutClients,
        Self::CutPeers,
        Self::CutLog,
        Self::Latency,
        Self::Clock,
    ];

    /// Lets it happen; answers whether it hit anything.
    pub(super) async fn happen(
        self,
        cluster: &mut Cluster,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<bool> {
        let moment = Duration::from_millis(random.u64(..1_500));
        let while_cut = Duration::from_millis(random.u64(2_000..8_000));
        let node = random.usize(..cluster.nodes.len());
        match self {
            Self::KillCoordinator => {
                cluster.nodes[node].coordinator.process.kill()?;
                sleep(if random.bool() { moment } else { LEASE + moment }).await;
                cluster.start(node)?;
            }
            Self::PauseCoordinator => {
                cluster.nodes[node].coordinator.process.pause()?;
                sleep(LEASE + Duration::from_millis(1_500) + moment).await;
                cluster.nodes[node].coordinator.process.unpause()?;
            }
            Self::RollingRestart => {
                for node in 0..cluster.nodes.len() {
                    stop(cluster, node).await?;
                    cluster.start(node)?;
                    cluster.nodes[node].coordinator.ready(READY_LIMIT).await?;
                }
            }
            Self::Drain => {
                drain(cluster, node, &["drain", "--reason", "a new kernel", "--wait"]).await?;
                sleep(moment).await;
                drain(cluster, node, &["undrain"]).await?;
            }
            Self::CutClients => return Ok(cut(&cluster.nodes[node].door, false, while_cut, random).await),
            Self::CutPeers => return Ok(cut(&cluster.nodes[node].door, true, while_cut, random).await),
            Self::CutLog => return Ok(cut(&cluster.nodes[node].log, false, while_cut, random).await),
            Self::Latency => return Ok(late(cluster, node, while_cut).await),
            Self::Clock => {
                let offset = if random.bool() { CLOCK_OFFSET_MS } else { -CLOCK_OFFSET_MS };
                stop(cluster, node).await?;
                let process = &mut cluster.nodes[node].coordinator.process;
                process.unset(unanimity_failpoints::CLOCK_VARIABLE);
                process.set(unanimity_failpoints::CLOCK_VARIABLE, offset.to_string());
                cluster.start(node)?;
                cluster.nodes[node].coordinator.ready(READY_LIMIT).await?;
            }
        }
        Ok(true)
    }
}

/// Stops a coordinator in good order.
pub(in super::super) async fn stop(cluster: &mut Cluster, node: usize) -> anyhow::Result<()> {
    let process = &mut cluster.nodes[node].coordinator.process;
    process.terminate()?;
    let exit = process.exit(STOP_LIMIT).await?;
    ensure!(exit.success(), "{} ended with {exit}:\n{}", process.name(), process.tail());
    Ok(())
}

/// `unanimity cluster` with this command about a node, at its neighbour.
async fn drain(cluster: &Cluster, node: usize, command: &[&str]) -> anyhow::Result<()> {
    let name = cluster.nodes[node].coordinator.process.name();
    let neighbour = cluster.nodes[(node + 1) % cluster.nodes.len()].coordinator.url();
    let arguments = [&["cluster"], command, &[name, "--addr", &neighbour]].concat();
    until(&format!("{arguments:?}"), STOP_LIMIT, async || {
        let output = unanimity(&arguments, &cluster.log_url).await?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
    .await
}

/// Holds up what one side says, as a network does that is cut in one direction; then what was said arrives late, or
/// with its connections never.
async fn cut(proxy: &Proxy, is_told: bool, how_long: Duration, random: &mut fastrand::Rng) -> bool {
    let before = proxy.touched_bytes();
    let side = if random.bool() { Side::Caller } else { Side::Listener };
    proxy.set(is_told, side, Weather::Held);
    sleep(how_long).await;
    if random.bool() {
        proxy.cut();
    }
    proxy.set(is_told, side, Weather::Clear);
    proxy.touched_bytes() > before
}

async fn late(cluster: &Cluster, node: usize, how_long: Duration) -> bool {
    let ways = [&cluster.nodes[node].door, &cluster.nodes[node].log];
    let touched = || ways.iter().map(|way| way.touched_bytes()).sum::<u64>();
    let weather = |weather| {
        for way in ways {
            for side in [Side::Caller, Side::Listener] {
                way.set(false, side, weather);
                way.set(true, side, weather);
            }
        }
    };
    let before = touched();
    weather(Weather::Late(LATENCY));
    sleep(how_long).await;
    weather(Weather::Clear);
    touched() > before
}
