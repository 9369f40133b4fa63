//! The faults of one run: which, when, and for how long, drawn from the seed before it begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use turmoil::Sim;

use crate::bank::bank_name;
use crate::hits::Hit;
use crate::ledger::Ledger;
use crate::net::{NODES, node_name};
use crate::record::Record;

/// The teller's host.
pub(crate) const TELLER: &str = "teller";
/// How many banks there are.
pub(crate) const BANKS: usize = 2;
/// The first fault comes when all know each other; the last one is over by the second of these.
const FROM: Duration = Duration::from_secs(4);
const UNTIL: Duration = Duration::from_secs(24);
/// Kinds of faults, from which each run draws some.
const KINDS: usize = 12;
/// The latency at other times, at most.
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(4);

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Apart(String, String),
    OneWay { from: String, to: String },
    Hold(String, String),
    Node(usize),
    Bank(usize),
    Loss(f64),
    Slow(Duration),
}

/// A fault and its time.
#[derive(Debug)]
pub(crate) struct Fault {
    kind: Kind,
    from: Duration,
    until: Duration,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    ToCome,
    Now,
    Over,
}

/// Draws the faults of a run.
pub(crate) fn draw(seed: u64, dice: &mut fastrand::Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    // Turmoil cannot hold a link that is cut in one direction: each link and each host has one fault.
    let mut used = BTreeSet::new();
    // And with a lost message it mends a cut in one direction: a run has the one or the other.
    let (mut loses, mut cuts) = (false, false);
    for number in 0..dice.usize(3..6) {
        // The first goes through all kinds, so that a few seeds meet each of them.
        let kind = if number == 0 { (seed % KINDS as u64) as usize } else { dice.usize(..KINDS) };
        let node = dice.usize(..NODES);
        let (here, other) = (node_name(node), node_name((node + 1) % NODES));
        let bank = bank_name(dice.usize(..BANKS));
        let turned = dice.bool();
        let one_way = |a: String, b: String| {
            let (from, to) = if turned { (a, b) } else { (b, a) };
            Kind::OneWay { from, to }
        };
        let kind = match kind {
            0 => Kind::Apart(TELLER.to_owned(), here),
            1 => one_way(TELLER.to_owned(), here),
            2 => Kind::Apart(bank, here),
            3 => one_way(bank, here),
            4 => Kind::Apart(here, other),
            5 => one_way(here, other),
            6 => Kind::Hold([TELLER.to_owned(), bank, other][dice.usize(..3)].clone(), here),
            7 | 8 => Kind::Node(node),
            9 => Kind::Bank(dice.usize(..BANKS)),
            10 => Kind::Loss(f64::from(dice.u32(1..20)) / 2_000.0),
            _ => Kind::Slow(Duration::from_millis(dice.u64(50..400))),
        };
        let (is_loss, is_cut) = (matches!(kind, Kind::Loss(_)), matches!(kind, Kind::OneWay { .. }));
        if (is_loss && cuts) || (is_cut && loses) || !used.insert(kind.place()) {
            continue;
        }
        (loses, cuts) = (loses || is_loss, cuts || is_cut);
        let from = Duration::from_millis(dice.u64(FROM.as_millis() as u64..18_000));
        // A node long enough that its partitions are missed.
        let least = if matches!(kind, Kind::Node(_)) { 5_000 } else { 500 };
        let lasts = Duration::from_millis(dice.u64(least..9_000));
        faults.push(Fault { kind, from, until: (from + lasts).min(UNTIL), state: State::ToCome });
    }
    faults
}

impl Kind {
    /// What it befalls.
    fn place(&self) -> String {
        match self {
            Self::Apart(a, b) | Self::Hold(a, b) | Self::OneWay { from: a, to: b } => {
                let (a, b) = if a < b { (a, b) } else { (b, a) };
                format!("{a} {b}")
            }
            Self::Node(place) => node_name(*place),
            Self::Bank(place) => bank_name(*place),
            Self::Loss(_) => "loss".to_owned(),
            Self::Slow(_) => "slow".to_owned(),
        }
    }

    fn befalls_teller(&self) -> bool {
        matches!(self, Self::Apart(a, b) | Self::OneWay { from: a, to: b } if a == TELLER || b == TELLER)
    }

    fn hit(&self) -> Hit {
        let of_bank = |a: &str, b: &str| a.starts_with("bank") || b.starts_with("bank");
        match self {
            Self::Apart(..) if self.befalls_teller() => Hit::TellerApart,
            Self::Apart(a, b) if of_bank(a, b) => Hit::BankApart,
            Self::Apart(..) => Hit::NodesApart,
            Self::OneWay { .. } if self.befalls_teller() => Hit::TellerOneWay,
            Self::OneWay { from, to } if of_bank(from, to) => Hit::BankOneWay,
            Self::OneWay { .. } => Hit::NodesOneWay,
            Self::Hold(..) => Hit::Held,
            Self::Node(_) => Hit::NodeCrash,
            Self::Bank(_) => Hit::BankCrash,
            Self::Loss(_) => Hit::Loss,
            Self::Slow(_) => Hit::Slow,
        }
    }
}

impl Fault {
    /// Begins and ends it when it is time. Answers whether it is over.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, record: &Arc<Record>, ledgers: &[Ledger]) -> bool {
        let now = sim.elapsed();
        match self.state {
            State::ToCome if now >= self.from && self.is_telling(now, record, ledgers) => {
                self.state = State::Now;
                self.begin(sim, record, ledgers);
            }
            State::Now if now >= self.until => {
                self.state = State::Over;
                self.end(sim, record);
            }
            State::ToCome | State::Now | State::Over => {}
        }
        self.state == State::Over
    }

    /// Whether something is under way that it can disturb; waited for not too long.
    fn is_telling(&self, now: Duration, record: &Record, ledgers: &[Ledger]) -> bool {
        let is_late = now >= self.from + Duration::from_secs(1);
        is_late
            || match &self.kind {
                Kind::Node(_) => record.committing.load(Ordering::Relaxed) > 0,
                Kind::Bank(place) => ledgers[*place].prepared() > 0,
                _ => true,
            }
    }

    fn begin(&self, sim: &mut Sim<'_>, record: &Record, ledgers: &[Ledger]) {
        record.hit(self.kind.hit());
        if self.kind.befalls_teller() {
            record.teller_cut.fetch_add(1, Ordering::Relaxed);
        }
        match &self.kind {
            Kind::Apart(a, b) => sim.partition(a.as_str(), b.as_str()),
            Kind::OneWay { from, to } => sim.partition_oneway(from.as_str(), to.as_str()),
            Kind::Hold(a, b) => sim.hold(a.as_str(), b.as_str()),
            Kind::Node(place) => {
                if record.committing.load(Ordering::Relaxed) > 0 {
                    record.hit(Hit::NodeCrashInCommit);
                }
                record.nodes_dead.fetch_add(1, Ordering::Relaxed);
                sim.crash(node_name(*place));
            }
            Kind::Bank(place) => {
                if ledgers[*place].prepared() > 0 {
                    record.hit(Hit::BankCrashPrepared);
                }
                sim.crash(bank_name(*place));
            }
            Kind::Loss(rate) => sim.set_fail_rate(*rate),
            Kind::Slow(latency) => sim.set_max_message_latency(*latency),
        }
    }

    fn end(&self, sim: &mut Sim<'_>, record: &Record) {
        if self.kind.befalls_teller() {
            record.teller_cut.fetch_sub(1, Ordering::Relaxed);
        }
        match &self.kind {
            Kind::Apart(a, b) => sim.repair(a.as_str(), b.as_str()),
            Kind::OneWay { from, to } => sim.repair_oneway(from.as_str(), to.as_str()),
            Kind::Hold(a, b) => sim.release(a.as_str(), b.as_str()),
            Kind::Node(place) => {
                record.nodes_dead.fetch_sub(1, Ordering::Relaxed);
                sim.bounce(node_name(*place));
            }
            Kind::Bank(place) => sim.bounce(bank_name(*place)),
            Kind::Loss(_) => sim.set_fail_rate(0.0),
            Kind::Slow(_) => sim.set_max_message_latency(LATENCY_MAX),
        }
    }
}

/// Mends what chance has broken.
pub(crate) fn heal(sim: &Sim<'_>) {
    let nodes = (0..NODES).map(node_name);
    let hosts: Vec<_> = nodes.chain((0..BANKS).map(bank_name)).chain([TELLER.to_owned()]).collect();
    for (place, a) in hosts.iter().enumerate() {
        for b in &hosts[place + 1..] {
            sim.repair(a.as_str(), b.as_str());
        }
    }
}
