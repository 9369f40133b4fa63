//! What goes wrong, for how long, and whether it did.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::unanimity;
use integration_tests::output::say;
use integration_tests::proxy::{Proxy, Side, Weather};
use integration_tests::wait::until;
use tokio::time::sleep;

use super::Bound;
use super::clients::Clients;
use super::stack::{READY_LIMIT, Stack};

/// How long a coordinator may take to stop in good order.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Transfers that must commit between two faults: work goes on by itself after each of them.
const COMMITS_BETWEEN: usize = 5;
/// A coordinator's lease.
const LEASE: Duration = Duration::from_secs(6);
const LATENCY: Duration = Duration::from_millis(500);
/// How wrong a clock is.
const CLOCK_OFFSET_MS: i64 = 600_000;
/// How often the counters are told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What goes wrong. Where it happens, and for how long, chance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL of a coordinator; back in a moment, or when its lease is over.
    KillCoordinator,
    /// SIGSTOP of a coordinator beyond its lease: others take over, and it wakes up deposed.
    PauseCoordinator,
    /// Every coordinator is stopped in good order and started again, one after another.
    RollingRestart,
    /// A coordinator gives its partitions away at an operator's word, and takes its share again.
    Drain,
    KillBank,
    KillBankDatabase,
    KillLogDatabase,
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

impl Fault {
    pub(super) const ALL: [Self; 12] = [
        Self::KillCoordinator,
        Self::PauseCoordinator,
        Self::RollingRestart,
        Self::Drain,
        Self::KillBank,
        Self::KillBankDatabase,
        Self::KillLogDatabase,
        Self::CutClients,
        Self::CutPeers,
        Self::CutLog,
        Self::Latency,
        Self::Clock,
    ];

    /// How often it happens in a round. What visits every coordinator takes its time.
    fn times(self) -> usize {
        if matches!(self, Self::RollingRestart | Self::Drain) { 1 } else { 2 }
    }

    fn is_of_databases(self) -> bool {
        matches!(self, Self::KillBankDatabase | Self::KillLogDatabase)
    }

    /// Lets it happen; answers whether it hit anything.
    async fn happen(self, stack: &mut Stack, random: &mut fastrand::Rng) -> anyhow::Result<bool> {
        let moment = Duration::from_millis(random.u64(..1_500));
        let while_cut = Duration::from_millis(random.u64(2_000..8_000));
        let node = random.usize(..stack.nodes.len());
        let bank = random.usize(..stack.banks.len());
        match self {
            Self::KillCoordinator => {
                stack.nodes[node].coordinator.process.kill()?;
                sleep(if random.bool() { moment } else { LEASE + moment }).await;
                stack.start_node(node)?;
            }
            Self::PauseCoordinator => {
                stack.nodes[node].coordinator.process.pause()?;
                sleep(LEASE + Duration::from_millis(1_500) + moment).await;
                stack.nodes[node].coordinator.process.unpause()?;
            }
            Self::RollingRestart => {
                for node in 0..stack.nodes.len() {
                    stop(stack, node).await?;
                    stack.start_node(node)?;
                    stack.nodes[node].coordinator.ready(READY_LIMIT).await?;
                }
            }
            Self::Drain => {
                drain(stack, node, &["drain", "--reason", "a new kernel", "--wait"]).await?;
                sleep(moment).await;
                drain(stack, node, &["undrain"]).await?;
            }
            Self::KillBank => {
                stack.banks[bank].process.kill()?;
                sleep(moment).await;
                stack.banks[bank].process.start()?;
            }
            Self::KillBankDatabase => {
                stack.banks[bank].server.kill().await?;
                sleep(moment).await;
                stack.banks[bank].server.restart().await?;
            }
            Self::KillLogDatabase => {
                stack.log.kill().await?;
                sleep(moment).await;
                stack.log.restart().await?;
            }
            Self::CutClients => return Ok(cut(&stack.nodes[node].door, false, while_cut, random).await),
            Self::CutPeers => return Ok(cut(&stack.nodes[node].door, true, while_cut, random).await),
            Self::CutLog => return Ok(cut(&stack.nodes[node].log, false, while_cut, random).await),
            Self::Latency => return Ok(late(stack, node, while_cut).await),
            Self::Clock => {
                let offset = if random.bool() { CLOCK_OFFSET_MS } else { -CLOCK_OFFSET_MS };
                stop(stack, node).await?;
                let process = &mut stack.nodes[node].coordinator.process;
                process.unset(unanimity_failpoints::CLOCK_VARIABLE);
                process.set(unanimity_failpoints::CLOCK_VARIABLE, offset.to_string());
                stack.start_node(node)?;
                stack.nodes[node].coordinator.ready(READY_LIMIT).await?;
            }
        }
        Ok(true)
    }
}

/// Stops a coordinator in good order.
pub(super) async fn stop(stack: &mut Stack, node: usize) -> anyhow::Result<()> {
    let process = &mut stack.nodes[node].coordinator.process;
    process.terminate()?;
    let exit = process.exit(STOP_LIMIT).await?;
    ensure!(exit.success(), "{} ended with {exit}:\n{}", process.name(), process.tail());
    Ok(())
}

/// `unanimity cluster` with this command about a node, at its neighbour.
async fn drain(stack: &Stack, node: usize, command: &[&str]) -> anyhow::Result<()> {
    let name = stack.nodes[node].coordinator.process.name();
    let neighbour = stack.nodes[(node + 1) % stack.nodes.len()].coordinator.url();
    let arguments = [&["cluster"], command, &[name, "--addr", &neighbour]].concat();
    until(&format!("{arguments:?}"), STOP_LIMIT, async || {
        let output = unanimity(&arguments, &stack.log_url).await?;
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

async fn late(stack: &Stack, node: usize, how_long: Duration) -> bool {
    let ways = [&stack.nodes[node].door, &stack.nodes[node].log];
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

/// How often each happened and hit something.
pub(super) type Happened = BTreeMap<Fault, usize>;

/// All faults, one after another in a random order, each under load, until the bound is reached.
pub(super) async fn of_all_kinds(
    stack: &mut Stack,
    clients: &Clients,
    bound: Bound,
    random: &mut fastrand::Rng,
) -> anyhow::Result<Happened> {
    let started = Instant::now();
    let mut told = Instant::now();
    let mut happened = Happened::new();
    let mut planned: Vec<Fault> = Vec::new();
    loop {
        if planned.is_empty() {
            if bound.is_reached(started.elapsed(), happened.values().sum()) {
                break;
            }
            let all =
                Fault::ALL.into_iter().filter(|fault| stack.owns_databases() || !fault.is_of_databases());
            planned = all.flat_map(|fault| std::iter::repeat_n(fault, fault.times())).collect();
            random.shuffle(&mut planned);
        }
        let Some(fault) = planned.pop() else { break };
        let so_far = || format!("{fault:?} after {happened:?}, {} transfers", clients.made());
        if bound.is_over(started.elapsed()) {
            break;
        }
        sleep(Duration::from_millis(random.u64(..500))).await;
        let begun = Instant::now();
        let hit = fault.happen(stack, random).await.with_context(so_far)?;
        let happens = begun.elapsed();
        // What one fault left behind need not be over before the next; but work must go on.
        progress(clients).await.with_context(so_far)?;
        say(&format!(
            "{:>4.0} s: {fault:?} for {:.1} s, {}, works again after {:.1} s; {} transfers",
            started.elapsed().as_secs_f32(),
            happens.as_secs_f32(),
            if hit { "hit" } else { "hit nothing" },
            begun.elapsed().saturating_sub(happens).as_secs_f32(),
            clients.made()
        ));
        if hit {
            *happened.entry(fault).or_default() += 1;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            say(&format!("{:.0} s: {}; {happened:?}", started.elapsed().as_secs_f32(), clients.counts()));
        }
    }
    bound.enough(clients, started).await?;
    Ok(happened)
}

/// Waits until a few more transfers have committed.
async fn progress(clients: &Clients) -> anyhow::Result<()> {
    let goal = clients.committed() + COMMITS_BETWEEN;
    until("transfers commit again", READY_LIMIT, async || {
        let committed = clients.committed();
        ensure!(committed >= goal, "{committed} of {goal}");
        Ok(())
    })
    .await
}
