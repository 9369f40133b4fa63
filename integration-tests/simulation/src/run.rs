//! One seed: a world, a time of trouble, healing, and the end.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use unanimity_coordinator::engine::PartitionState;
use unanimity_coordinator::log::{Fault as LogFault, FaultyLog, MemoryLog, TransactionLog as _};
use unanimity_coordinator::simulation;
use unanimity_types::{LogId, Timestamp};
use uuid::Uuid;

use crate::hits::{Hit, Hits};
use crate::managers::Work;
use crate::node::Node;
use crate::site::Site;
use crate::swarm::Swarm;
use crate::trace::Line;
use crate::world::World;

/// What every run's clocks show when it begins: some moment of 2026.
const WALL_MS: u64 = 1_780_000_000_000;

/// Each participant begins with so much.
const BALANCE: i64 = 10_000;

/// Once faults end, everything is settled within so long (I5). Longer than the longest back-off of an
/// operation, a deadline, a lease and a takeover's wait together.
const SETTLE_LIMIT: Duration = Duration::from_secs(240);

/// The longest that faults which were struck before the healing go on by themselves.
const FAULTS_END: Duration = Duration::from_secs(30);

/// How a seed ended.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// The hash of its trace.
    pub hash: u64,
    /// The invariant that does not hold, if one does not.
    pub failure: Option<String>,
    /// What it met.
    pub hits: Hits,
    /// What happened, if that was to be kept.
    pub trace: Vec<Line>,
    /// What the seed decided, for people.
    pub swarm: String,
    /// How long it ran, by its own clock.
    pub simulated: Duration,
}

thread_local! {
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic in a simulated task is a failure of the run. To be called once in a process.
pub fn watch_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let simulated = RUNNING.with_borrow(|running| *running);
        if simulated {
            PANICKED.with_borrow_mut(|panicked| {
                panicked.get_or_insert_with(|| panic.to_string());
            });
        } else {
            before(panic);
        }
    }));
}

thread_local! {
    static RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs a seed on this thread, from nothing.
///
/// # Errors
/// If no runtime can be made.
pub fn run(seed: u64, keep_trace: bool) -> std::io::Result<Report> {
    simulation::seed(Some(seed));
    RUNNING.set(true);
    PANICKED.set(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let report = runtime.block_on(scenario(seed, keep_trace));
    drop(runtime);
    RUNNING.set(false);
    simulation::seed(None);
    Ok(report)
}

async fn scenario(seed: u64, keep_trace: bool) -> Report {
    let mut dice = Rng::with_seed(seed ^ 0x5eed_5eed_5eed_5eed);
    let swarm = Swarm::new(&mut dice);
    let log_id = LogId(Uuid::from_u128(dice.u128(1..)));
    let memory = MemoryLog::born_at(swarm.partitions, log_id, Timestamp(WALL_MS));
    memory.set_racy(true);
    let faulty = FaultyLog::over_memory(memory.clone(), dice.u64(..));
    faulty.set_rates(swarm.rates);
    let nodes = (0..swarm.nodes).map(Node::new).collect();
    let sites = (0..swarm.sites).map(|number| Arc::new(Site::new(number, BALANCE))).collect();
    let works: Vec<Work> = (0..swarm.transactions)
        .map(|_| match dice.u32(..20) {
            0..=7 => Work::Tcc,
            8..=10 => Work::TwoPhase,
            11..=12 => Work::Mixed,
            13..=16 => Work::Saga,
            _ => Work::Message,
        })
        .collect();
    let described = format!("{swarm:?}");
    let world = Arc::new(World::new(swarm, WALL_MS, memory, faulty, nodes, sites, dice, keep_trace));
    let story = tokio::spawn(story(Arc::clone(&world), works));
    // The story ends by itself, or an invariant's failure ends it.
    tokio::select! {
        biased;
        () = world.failed.notified() => {}
        ended = story => if let Err(died) = ended { world.fail(None, format_args!("the story died: {died}")); }
    }
    if let Some(panicked) = PANICKED.take() {
        world.fail(None, format_args!("a task panicked: {panicked}"));
    }
    count_log_faults(&world);
    for node in &world.nodes {
        node.kill(&world);
    }
    for site in &world.sites {
        site.kill(&world);
    }
    let (hash, trace) = {
        let mut trace = world.trace();
        (trace.hash(), trace.take())
    };
    Report {
        seed,
        hash,
        failure: world.failure(),
        hits: world.hits(),
        trace,
        swarm: described,
        simulated: world.started.elapsed(),
    }
}

async fn story(world: Arc<World>, works: Vec<Work>) {
    // Not all at once: the first ones take every lease.
    for node in &world.nodes {
        node.start(&world);
        if world.percent(50) {
            tokio::time::sleep(world.up_to(Duration::from_millis(300))).await;
        }
    }
    for site in &world.sites {
        site.start(&world);
    }
    drop(tokio::spawn(Arc::clone(&world).hear_tickets()));
    drop(tokio::spawn(Arc::clone(&world).show_witnesses()));
    drop(tokio::spawn(Arc::clone(&world).operate()));
    let mut managers = Vec::new();
    for work in works {
        let start = world.up_to(world.swarm.trouble);
        let world = Arc::clone(&world);
        managers.push(tokio::spawn(async move {
            tokio::time::sleep(start).await;
            world.transaction(work).await;
        }));
    }
    Arc::clone(&world).make_trouble().await;
    world.heal();
    tokio::time::sleep(FAULTS_END).await;
    world.restart_all();
    for manager in managers {
        if let Err(died) = manager.await {
            world.fail(None, format_args!("a manager died: {died}"));
        }
    }
    settle(&world).await;
    everybody_looks(&world).await;
    let moved = world.check(|checks| checks.end());
    let there: i64 = world.sites.iter().map(|site| site.balance()).sum();
    let expected = BALANCE * i64::try_from(world.sites.len()).unwrap_or(0) + moved;
    if there != expected {
        world.fail(None, format_args!("I11: {there} in the accounts, {expected} by what took effect"));
    }
    world.note("all", None, format_args!("ends with {there}"));
}

/// Once faults end, every branch is settled (I5).
async fn settle(world: &Arc<World>) {
    let limit = Instant::now() + SETTLE_LIMIT;
    for round in 0_u32.. {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.accept_losses().await;
        if round % 10 == 9 {
            world.retry_all(round / 10).await;
        }
        let open = what_is_open(world);
        let Some(first) = open.first() else { return };
        if Instant::now() >= limit {
            world.fail(first.0, format_args!("I5: after healing there is still {}", first.1));
            return;
        }
    }
}

fn what_is_open(world: &World) -> Vec<(Option<unanimity_types::Xid>, String)> {
    let mut found = Vec::new();
    for site in &world.sites {
        for (xid, key) in site.open() {
            // What an acknowledged loss tore apart is for people.
            if world.check(|checks| checks.is_excused(xid)) {
                continue;
            }
            found.push((Some(xid), format!("{key} open at {}", site.host())));
        }
    }
    let mut running = vec![None; usize::from(world.swarm.partitions)];
    for node in &world.nodes {
        let Some(coordinator) = node.coordinator() else { continue };
        for info in coordinator.info().states {
            if info.state == PartitionState::Running {
                running[usize::from(info.partition.0)] = Some(info.open);
            }
        }
    }
    for (partition, open) in running.iter().enumerate() {
        match open {
            None => found.push((None, format!("nobody who runs p{partition}"))),
            Some(0) => {}
            Some(open) => {
                let xid = world.check(|checks| checks.unfinished());
                found.push((xid, format!("{open} open in p{partition}")));
            }
        }
    }
    found
}

/// At the end everybody is told the same (I3, I4).
async fn everybody_looks(world: &Arc<World>) {
    for xid in world.check(|checks| checks.told_xids()) {
        if world.check(|checks| checks.is_excused(xid)) {
            continue;
        }
        let status = world.look(xid, unanimity_coordinator::engine::Wait::Accepted, 40).await;
        // An abort of what never was durable leaves nothing: "not found" is no outcome.
        if status.is_none() && world.check(|checks| checks.decision(xid)).is_some() {
            world.fail(Some(xid), "I3: it was decided, and nobody knows it at the end");
        }
    }
}

fn count_log_faults(world: &World) {
    for (fault, times) in world.faulty.counts() {
        let hit = match fault {
            LogFault::AppendFailed => Hit::AppendFailed,
            LogFault::AppendRefused => Hit::AppendRefused,
            LogFault::AppendDoneUnknown => Hit::AppendDoneUnknown,
            LogFault::AppendLostUnknown => Hit::AppendLostUnknown,
            LogFault::AppendLate => Hit::AppendLate,
            LogFault::LateLanded => Hit::LateLanded,
            LogFault::LateRefused => Hit::LateRefused,
            LogFault::TrimRaced => Hit::TrimRaced,
            LogFault::TrimInterrupted => Hit::TrimInterrupted,
            LogFault::ReadFailed => Hit::ReadFailed,
            LogFault::LeaseFailed => Hit::LeaseFailed,
            LogFault::BeatFailed => Hit::BeatFailed,
            LogFault::HistoryFailed => Hit::HistoryFailed,
            LogFault::HistoryDoneUnknown => Hit::HistoryDoneUnknown,
            _ => continue,
        };
        world.hit_often(hit, times);
    }
}

impl World {
    pub(crate) fn log_id(&self) -> LogId {
        self.memory.identity().log_id
    }
}
