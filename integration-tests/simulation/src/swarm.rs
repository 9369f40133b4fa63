//! What one seed makes of the world: its size, its pace, and which faults it has. Each seed has a few of them
//! ("Swarm Testing", Groce, Zhang, Eide, Chen, Regehr, ISSTA 2012): all at once would hide each other.

use std::time::Duration;

use fastrand::Rng;
use unanimity_coordinator::log::FaultRates;

/// A fault that is put on from outside, and taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A node is killed, and started again after a while.
    NodeCrash,
    /// A node is paused.
    NodePause,
    /// A node is shut down in order, and started again.
    NodeStop,
    /// A node is drained for a while.
    NodeDrain,
    /// A participant is killed, and started again.
    ParticipantCrash,
    /// A participant is paused.
    ParticipantPause,
    /// A link between two hosts carries nothing in one direction.
    LinkCut,
    /// The same between a node and the database.
    LinkCutDatabase,
    /// The database answers nobody.
    LogAway,
    /// The database is slow.
    LogSlow,
    /// A failover of the database: what it had not acknowledged is gone.
    LogFailover,
    /// A failover that loses what was acknowledged.
    LogLostAcknowledged,
    /// A node's wall clock jumps.
    ClockJump,
    /// The database's clock jumps forward.
    DatabaseClockJump,
}

const FAULTS: [Fault; 13] = [
    Fault::NodeCrash,
    Fault::NodePause,
    Fault::NodeStop,
    Fault::NodeDrain,
    Fault::ParticipantCrash,
    Fault::ParticipantPause,
    Fault::LinkCut,
    Fault::LinkCutDatabase,
    Fault::LogAway,
    Fault::LogSlow,
    Fault::LogFailover,
    Fault::ClockJump,
    Fault::DatabaseClockJump,
];

/// What the seed decided.
#[derive(Debug, Clone)]
pub(crate) struct Swarm {
    /// Coordinator nodes.
    pub nodes: usize,
    /// Partitions of the log.
    pub partitions: u16,
    /// Whether nodes share partitions out among them, or leases alone decide.
    pub(crate) cluster: bool,
    /// Participants.
    pub sites: usize,
    /// Global transactions.
    pub transactions: usize,
    /// How long faults come.
    pub trouble: Duration,
    /// The lease.
    pub lease: Duration,
    /// How long delivery waits for an answer.
    pub call_timeout: Duration,
    /// Which faults come.
    pub faults: Vec<Fault>,
    /// How long on average between two of them.
    pub fault_every: Duration,
    /// The longest ordinary way of a message, one way.
    pub delay_max: Duration,
    /// Of 10,000 messages, how many are lost.
    pub loss: u32,
    /// Of 10,000, how many come twice.
    pub doubling: u32,
    /// Of 10,000, how many are very late.
    pub lateness: u32,
    /// What goes wrong in the log.
    pub rates: FaultRates,
    /// The database's own time for a call, at most.
    pub log_delay: Duration,
    /// Small logs are cleaned often.
    pub clean_bytes: u64,
    /// And trimmed often.
    pub trim_blocks: u64,
    /// How often the operator comes.
    pub operator_every: Duration,
}

impl Swarm {
    pub(crate) fn new(dice: &mut Rng) -> Self {
        let some = |dice: &mut Rng, of_100: u32, value: f64| {
            if dice.u32(..100) < of_100 { value * dice.f64() } else { 0.0 }
        };
        let calm = dice.u32(..100) < 5;
        let mut faults: Vec<Fault> =
            FAULTS.iter().copied().filter(|_| !calm && dice.u32(..100) < 35).collect();
        // Rare and by itself: what it breaks is excused from some of the checks.
        if dice.u32(..100) < 6 {
            faults.push(Fault::LogLostAcknowledged);
        }
        let rates = if dice.u32(..100) < 50 && !calm {
            FaultRates {
                append_failed: some(dice, 40, 0.06),
                append_refused: some(dice, 30, 0.04),
                append_done_unknown: some(dice, 40, 0.08),
                append_lost_unknown: some(dice, 40, 0.08),
                append_late: some(dice, 50, 0.10),
                late_lands: 0.2 * dice.f64(),
                trim_raced: some(dice, 70, 0.6),
                trim_interrupted: some(dice, 30, 0.2),
                slow: some(dice, 30, 0.2),
                slow_max: Duration::from_millis(dice.u64(10..1_500)),
                read_failed: some(dice, 40, 0.06),
                lease_failed: some(dice, 40, 0.10),
                beat_failed: some(dice, 40, 0.10),
                history_failed: some(dice, 40, 0.15),
                history_done_unknown: some(dice, 40, 0.15),
            }
        } else {
            FaultRates::default()
        };
        let bad_net = !calm && dice.bool();
        Self {
            nodes: dice.usize(2..=4),
            partitions: dice.u16(1..=4),
            cluster: dice.u32(..10) < 9,
            sites: dice.usize(2..=3),
            transactions: dice.usize(6..=36),
            trouble: Duration::from_secs(dice.u64(6..=30)),
            lease: Duration::from_millis(dice.u64(1_500..=6_000)),
            call_timeout: Duration::from_millis(dice.u64(1_000..=5_000)),
            faults,
            fault_every: Duration::from_millis(dice.u64(500..=4_000)),
            delay_max: Duration::from_millis(dice.u64(1..=30)),
            loss: if bad_net { dice.u32(..400) } else { 0 },
            doubling: if bad_net { dice.u32(..600) } else { 0 },
            lateness: if bad_net { dice.u32(..400) } else { 0 },
            rates,
            log_delay: Duration::from_micros(dice.u64(200..=8_000)),
            clean_bytes: *dice.choice(&[2_000, 8_000, 1_000_000]).unwrap_or(&8_000),
            trim_blocks: *dice.choice(&[2, 8, 64]).unwrap_or(&8),
            operator_every: Duration::from_millis(dice.u64(1_500..=8_000)),
        }
    }
}
