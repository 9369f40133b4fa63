//! What comes from outside: crashes, pauses, cut links, a database in trouble, clocks that jump.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::log::TransactionLog as _;
use unanimity_types::PartitionId;

use crate::hits::Hit;
use crate::swarm::Fault;
use crate::world::{Host, World};

/// What a paused process finds when it goes on: the longest pause, in leases.
const PAUSE_LEASES_MAX: u32 = 4;

impl World {
    /// Makes trouble until it is over.
    pub(crate) async fn make_trouble(self: Arc<Self>) {
        if self.swarm.faults.is_empty() {
            tokio::time::sleep(self.swarm.trouble).await;
            return;
        }
        let end = self.started + self.swarm.trouble;
        loop {
            let wait = self.up_to(self.swarm.fault_every * 2);
            if tokio::time::timeout_at(end, tokio::time::sleep(wait)).await.is_err() {
                return;
            }
            let fault = self.dice(|dice| *dice.choice(&self.swarm.faults).unwrap_or(&Fault::ClockJump));
            tokio::spawn(Arc::clone(&self).strike(fault));
        }
    }

    async fn strike(self: Arc<Self>, fault: Fault) {
        let lasts = self.up_to(Duration::from_secs(6));
        let node = self.dice(|dice| dice.usize(..self.nodes.len()));
        let site = self.dice(|dice| dice.usize(..self.sites.len()));
        match fault {
            Fault::NodeCrash => {
                if !self.nodes[node].is_up() {
                    return;
                }
                self.hit(Hit::NodeCrash);
                self.nodes[node].kill(&self);
                tokio::time::sleep(lasts).await;
                self.nodes[node].start(&self);
            }
            Fault::NodePause => {
                // The worst moment: something is about to leave.
                for _ in 0..800 {
                    if self.queued.get()[node] > 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                self.pause(Host::Node(node)).await;
            }
            Fault::NodeStop => {
                if !self.nodes[node].is_up() {
                    return;
                }
                self.hit(Hit::NodeStop);
                self.nodes[node].stop(&self).await;
                tokio::time::sleep(lasts / 4).await;
                self.nodes[node].start(&self);
            }
            Fault::NodeDrain => {
                self.hit(Hit::NodeDrain);
                let name = format!("n{node}");
                self.note(Host::Node(node), None, "is drained");
                // An operator's word: straight to the database.
                drop(self.memory.set_draining(&name, true).await);
                tokio::time::sleep(lasts).await;
                drop(self.memory.set_draining(&name, false).await);
                self.note(Host::Node(node), None, "is drained no more");
            }
            Fault::ParticipantCrash => {
                if self.sites[site].gate().is_none() {
                    return;
                }
                self.hit(Hit::ParticipantCrash);
                self.sites[site].kill(&self);
                tokio::time::sleep(lasts).await;
                self.sites[site].start(&self);
            }
            Fault::ParticipantPause => self.pause(Host::Site(site)).await,
            Fault::LinkCut => {
                let from = self.any_host();
                let to = self.any_host();
                if from != to {
                    self.hit(Hit::LinkCut);
                    self.cut(from, to, lasts).await;
                }
            }
            Fault::LinkCutDatabase => {
                self.hit(Hit::LinkCutDatabase);
                let (from, to) = (Host::Node(node), Host::Database);
                let (from, to) = if self.percent(50) { (from, to) } else { (to, from) };
                self.cut(from, to, lasts).await;
            }
            Fault::LogAway => {
                self.hit(Hit::LogAway);
                self.note(Host::Database, None, "is away");
                self.faulty.set_unavailable(true);
                tokio::time::sleep(lasts).await;
                self.faulty.set_unavailable(false);
                self.note(Host::Database, None, "is back");
            }
            Fault::LogSlow => {
                self.hit(Hit::LogSlow);
                let mut rates = self.swarm.rates;
                (rates.slow, rates.slow_max) = (0.7, Duration::from_secs(3));
                self.faulty.set_rates(rates);
                tokio::time::sleep(lasts).await;
                self.faulty.set_rates(self.swarm.rates);
            }
            Fault::LogFailover => self.fail_over(lasts / 3).await,
            Fault::LogLostAcknowledged => self.lose(lasts / 3).await,
            Fault::ClockJump => {
                let Some(gate) = self.nodes[node].gate() else { return };
                self.hit(Hit::ClockJump);
                let offset = self.dice(|dice| dice.u64(..1_200_000));
                gate.set_wall_clock((self.wall_ms + offset).saturating_sub(600_000));
                self.note(Host::Node(node), None, "its wall clock jumps");
            }
            Fault::DatabaseClockJump => {
                self.hit(Hit::DatabaseClockJump);
                self.note(Host::Database, None, "its clock jumps forward");
                self.memory.advance(lasts * 2);
            }
        }
    }

    fn any_host(&self) -> Host {
        match self.dice(|dice| dice.u32(..10)) {
            0..=4 => Host::Node(self.dice(|dice| dice.usize(..self.nodes.len()))),
            5..=8 => Host::Site(self.dice(|dice| dice.usize(..self.sites.len()))),
            _ => Host::Manager,
        }
    }

    async fn pause(&self, host: Host) {
        let Some(gate) = self.gate(host) else { return };
        let lasts = self.up_to(self.swarm.lease * PAUSE_LEASES_MAX);
        self.hit(match host {
            Host::Node(_) if lasts > self.swarm.lease => Hit::NodePauseBeyondLease,
            Host::Node(_) => Hit::NodePause,
            _ => Hit::ParticipantPause,
        });
        self.note(host, None, format_args!("pauses for {lasts:?}"));
        gate.pause();
        tokio::time::sleep(lasts).await;
        gate.resume();
        self.note(host, None, "goes on");
    }

    async fn cut(&self, from: Host, to: Host, lasts: Duration) {
        self.note(from, None, format_args!("does not reach {to} for {lasts:?}"));
        self.net.cut(from, to);
        tokio::time::sleep(lasts).await;
        self.net.mend(from, to);
        self.note(from, None, format_args!("reaches {to} again"));
    }

    /// The primary loses its standby, which then takes over without what the primary could not tell it.
    async fn fail_over(&self, lasts: Duration) {
        if self.check(|checks| std::mem::replace(&mut checks.failing_over, true)) {
            return;
        }
        self.check(|checks| checks.stalled = true);
        self.hit(Hit::LogFailover);
        self.note(Host::Database, None, "waits for its standby");
        tokio::time::sleep(lasts).await;
        self.note(Host::Database, None, "fails over");
        self.faulty.drop_late();
        self.memory.change_server();
        self.observe_all();
        for partition in (0..self.swarm.partitions).map(PartitionId) {
            let last = self.check(|checks| checks.acknowledged_of(partition));
            self.memory.lose_tail(partition, last);
            let lost = self.check(|checks| checks.loses(partition, last, false));
            if lost > 0 {
                self.hit(Hit::LogFailoverLost);
                self.note(Host::Database, None, format_args!("p{partition} lost {lost} blocks above {last}"));
            }
        }
        self.check(|checks| {
            checks.database_generation += 1;
            (checks.stalled, checks.failing_over) = (false, false);
        });
    }

    /// The standby that takes over was behind, and nobody knew.
    async fn lose(&self, behind: Duration) {
        if self.check(|checks| std::mem::replace(&mut checks.failing_over, true)) {
            return;
        }
        let copy = self.memory.fork();
        let lasts: Vec<_> = (0..self.swarm.partitions)
            .map(|partition| {
                self.observe(PartitionId(partition));
                self.check(|checks| checks.last_of(PartitionId(partition)))
            })
            .collect();
        tokio::time::sleep(behind).await;
        self.observe_all();
        self.hit(Hit::LogLostAcknowledged);
        self.note(Host::Database, None, "fails over to a standby that is behind");
        self.faulty.drop_late();
        self.memory.change_server();
        self.memory.adopt(&copy);
        for (partition, last) in (0..self.swarm.partitions).map(PartitionId).zip(lasts) {
            let lost = self.check(|checks| checks.loses(partition, last, true));
            self.note(Host::Database, None, format_args!("p{partition} lost {lost} blocks above {last}"));
        }
        self.check(|checks| {
            checks.database_generation += 1;
            checks.failing_over = false;
        });
    }

    /// Takes all faults away and starts all that is down.
    pub(crate) fn heal(self: &Arc<Self>) {
        self.note("all", None, "heals");
        *self.trouble.get() = false;
        self.net.mend_all();
        self.faulty.set_unavailable(false);
        self.faulty.set_rates(unanimity_coordinator::log::FaultRates::default());
    }

    /// After faults have ended by themselves: what is down starts.
    pub(crate) fn restart_all(self: &Arc<Self>) {
        for host in (0..self.nodes.len()).map(Host::Node).chain((0..self.sites.len()).map(Host::Site)) {
            if let Some(gate) = self.gate(host) {
                gate.resume();
            }
        }
        for node in &self.nodes {
            node.start(self);
        }
        for site in &self.sites {
            site.start(self);
        }
    }
}
