//! One run: the hosts, the faults, healing, and what must hold then.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_types::{LogId, Timestamp};
use uuid::Uuid;

use crate::bank::bank_name;
use crate::faults::{BANKS, LATENCY_MAX, TELLER, draw, heal};
use crate::hits::Hits;
use crate::ledger::{Ledger, OPENING, State};
use crate::net::{ALL_NODES, COORDINATOR_PORT, NODES, node_name};
use crate::record::{Record, Told};
use crate::teller::TELLERS;
use crate::{bank, node, teller};

/// Partitions of the log: each node has some.
const PARTITIONS: u16 = 6;
/// How finely time passes.
const TICK: Duration = Duration::from_millis(2);
/// From healing until everything is settled, at most (I5): two leases, the longest pause between two attempts at a
/// branch, and a transfer's own time.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// When the log was born, by its own clock: some day.
const BORN_AT: Timestamp = Timestamp(1_700_000_000_000);

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts panics from now on: tasks swallow theirs.
pub fn watch_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.set(PANICS.get() + 1);
        before(panic);
    }));
}

/// What one seed came to.
#[derive(Debug)]
pub struct Report {
    /// What was met.
    pub hits: Hits,
    /// What does not hold, if anything.
    pub failure: Option<String>,
    /// How much time passed in it.
    pub simulated: Duration,
    /// Transfers whose outcome was told.
    pub transfers: usize,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    PANICS.set(0);
    let mut dice = fastrand::Rng::with_seed(seed);
    // The SDK's chance, but for ids; the engine's.
    fastrand::seed(dice.u64(..));
    unanimity_coordinator::simulation::seed(Some(dice.u64(..)));
    let mut sim = turmoil::Builder::new()
        .rng_seed(dice.u64(..))
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(600))
        .min_message_latency(Duration::from_micros(500))
        .max_message_latency(LATENCY_MAX)
        .tcp_capacity(65_536)
        .enable_random_order()
        .build();
    let record = Arc::<Record>::default();
    let ledgers: Vec<_> = (0..BANKS).map(|_| Ledger::new(&record)).collect();
    let log: Arc<dyn TransactionLog> = Arc::new(log(&mut dice));
    for place in 0..NODES {
        let (log, record) = (Arc::clone(&log), Arc::clone(&record));
        sim.host(node_name(place), move || node::run(place, Arc::clone(&log), Arc::clone(&record)));
    }
    let addresses = addresses(&mut dice);
    for (place, ledger) in ledgers.iter().enumerate() {
        let (addresses, ledger, record) = (addresses.clone(), ledger.clone(), Arc::clone(&record));
        sim.host(bank_name(place), move || {
            bank::run(place, addresses.clone(), ledger.clone(), Arc::clone(&record))
        });
    }
    let at_teller = Arc::clone(&record);
    sim.host(TELLER, move || teller::run(seed, addresses.clone(), Arc::clone(&at_teller)));
    let mut faults = draw(seed, &mut dice);
    let failure = drive(&mut sim, &mut faults, &record, &ledgers).err();
    let failure = failure.map(|why| format!("{why}; faults: {faults:?}"));
    let (simulated, transfers) = (sim.elapsed(), record.outcomes().len());
    unanimity_coordinator::simulation::seed(None);
    Report { hits: record.hits(), failure, simulated, transfers }
}

/// The log, whose clock is the simulation's: every host's runtime has one of its own.
fn log(dice: &mut fastrand::Rng) -> MemoryLog {
    let last = Mutex::new(Duration::ZERO);
    let age = move || {
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = turmoil::sim_elapsed().unwrap_or_default().max(*last);
        *last
    };
    MemoryLog::born_by_clock(PARTITIONS, LogId(Uuid::from_u128(dice.u128(..))), BORN_AT, age)
}

/// What clients are given: one node, several, or a name that stands for all.
fn addresses(dice: &mut fastrand::Rng) -> Vec<String> {
    let url = |host: &str| format!("http://{host}:{COORDINATOR_PORT}");
    match dice.usize(..3) {
        0 => vec![url(ALL_NODES)],
        1 => vec![url(&node_name(0))],
        _ => vec![url(&node_name(2)), url(&node_name(0))],
    }
}

fn drive(
    sim: &mut turmoil::Sim<'_>,
    faults: &mut [crate::faults::Fault],
    record: &Arc<Record>,
    ledgers: &[Ledger],
) -> Result<(), String> {
    let mut healed_at = None;
    loop {
        sim.step().map_err(|error| format!("a host failed: {error}"))?;
        if let Some(broken) = record.first_broken() {
            return Err(broken);
        }
        if PANICS.get() > 0 {
            return Err("a task panicked".to_owned());
        }
        let Some(since) = healed_at else {
            // Every one of them is to be stepped.
            let over =
                faults.iter_mut().filter_map(|fault| fault.step(sim, record, ledgers).then_some(())).count();
            if over == faults.len() {
                heal(sim);
                record.healed.store(true, Ordering::Relaxed);
                healed_at = Some(sim.elapsed());
            }
            continue;
        };
        let prepared: usize = ledgers.iter().map(Ledger::prepared).sum();
        let done = record.tellers_done.load(Ordering::Relaxed);
        if done == TELLERS && prepared == 0 {
            return settled(record, ledgers);
        }
        if sim.elapsed() > since + SETTLED_WITHIN {
            return Err(format!(
                "I5: {SETTLED_WITHIN:?} after healing {done} of {TELLERS} tellers have settled all that they began, and \
                 {prepared} branches are prepared"
            ));
        }
    }
}

/// What must hold when all is settled.
fn settled(record: &Record, ledgers: &[Ledger]) -> Result<(), String> {
    let total: i64 = ledgers.iter().map(Ledger::balance).sum();
    let expected = OPENING * ledgers.len() as i64;
    if total != expected || ledgers.iter().any(|ledger| ledger.balance() < 0) {
        return Err(format!("I11: the total is {total}, and was {expected}"));
    }
    let outcomes = record.outcomes();
    for xid in ledgers.iter().flat_map(Ledger::xids) {
        let states: Vec<_> = ledgers.iter().map(|ledger| ledger.state_of(xid)).collect();
        let all = states.iter().all(|state| *state == Some(State::Committed));
        let none = states.iter().all(|state| *state != Some(State::Committed));
        let told = outcomes.get(&xid);
        if !(all || none) {
            return Err(format!("I1: {xid} stands as {states:?}"));
        }
        if (all && told == Some(&Told::Aborted)) || (none && told == Some(&Told::Committed)) {
            return Err(format!("I4: {xid} was told to be {told:?} and stands as {states:?}"));
        }
    }
    // Committed without a branch anywhere would be a commit of nothing.
    let of_nothing = outcomes.iter().find(|(xid, told)| {
        **told == Told::Committed && ledgers.iter().any(|ledger| ledger.state_of(**xid).is_none())
    });
    if let Some((xid, _)) = of_nothing {
        return Err(format!("I2: {xid} was told to be committed, and a bank never heard of it"));
    }
    let proofs = record.after_healing.load(Ordering::Relaxed);
    if proofs < TELLERS {
        return Err(format!("I5: only {proofs} transfers were committed after healing"));
    }
    Ok(())
}
