//! A node's dispatcher: for each participant a queue and a few calls at once, over the simulated network.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use unanimity_coordinator::engine::{BranchCall, BranchReply, Dispatcher, ResultSink};
use unanimity_coordinator::simulation::Gate;
use unanimity_core::ResultOutcome;
use unanimity_types::Target;

use crate::hits::Hit;
use crate::net::NoAnswer;
use crate::world::{Host, World};

/// Calls to one participant at once.
const AT_ONCE: usize = 3;
/// Calls to one participant that may wait.
const WAITING_MAX: usize = 64;

/// See the module's page.
pub(crate) struct Delivery {
    world: Arc<World>,
    node: usize,
    gate: Gate,
    /// For each participant.
    room: Vec<Arc<Semaphore>>,
    queue: Vec<Arc<Semaphore>>,
}

impl Delivery {
    pub(crate) fn new(world: Arc<World>, node: usize, gate: Gate) -> Self {
        let each = |permits| world.sites.iter().map(|_| Arc::new(Semaphore::new(permits))).collect();
        let (room, queue) = (each(AT_ONCE), each(WAITING_MAX));
        Self { world, node, gate, room, queue }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Counts one call that has not left its node.
struct Queued(Arc<World>, usize);

impl Drop for Queued {
    fn drop(&mut self) {
        let mut queued = self.0.queued.get();
        queued[self.1] = queued[self.1].saturating_sub(1);
    }
}

/// Which participant a target names, and whether it has a fence.
pub(crate) fn site_of(target: &Target) -> Option<(usize, bool)> {
    match target {
        Target::Participant { participant, .. } => {
            Some((participant.as_str().strip_prefix('s')?.parse().ok()?, true))
        }
        Target::Http(url) => Some((url.strip_prefix("http://s")?.split('/').next()?.parse().ok()?, false)),
        Target::Grpc(_) => None,
    }
}

impl Dispatcher for Delivery {
    fn dispatch(&self, call: BranchCall, results: &ResultSink) {
        let world = Arc::clone(&self.world);
        let results = results.clone();
        let Some((site, fenced)) = site_of(&call.target) else {
            let outcome = ResultOutcome::Unusable { error: "no such participant".into() };
            results.send(reply(&call, outcome, Duration::ZERO));
            return;
        };
        let not_sent = |error: &str| ResultOutcome::NotSent {
            error: error.into(),
            retry_after: Duration::from_millis(200),
        };
        let Ok(place) = Arc::clone(&self.queue[site]).try_acquire_owned() else {
            results.send(reply(&call, not_sent("the queue is full"), Duration::ZERO));
            return;
        };
        let room = Arc::clone(&self.room[site]);
        let node = Host::Node(self.node);
        world.queued.get()[self.node] += 1;
        let queued = Queued(Arc::clone(&world), self.node);
        drop(self.gate.spawn(async move {
            let _place = place;
            let Ok(_room) = room.acquire_owned().await else { return };
            // Between the queue and the wire.
            tokio::time::sleep(world.up_to(Duration::from_millis(6))).await;
            drop(queued);
            if !results.may_send(call.operation) {
                world.hit(Hit::NotSent);
                world.note(
                    node,
                    Some(call.xid),
                    format_args!("does not send {} {}", call.operation, call.key),
                );
                results.send(reply(&call, not_sent("the lease is over"), Duration::ZERO));
                return;
            }
            let started = Instant::now();
            let limit = call.timeout.unwrap_or(world.swarm.call_timeout);
            let deadline = started + limit;
            world.note(
                node,
                Some(call.xid),
                format_args!("sends {} {} #{} to s{site}", call.operation, call.key, call.attempt),
            );
            let order = call.clone();
            let there = Arc::clone(&world);
            // Nothing below an unfenced participant's connection sends its requests again.
            let doubled = fenced && world.in_trouble() && world.of_10_000(world.swarm.doubling);
            let answer = world
                .call_once_or_twice(node, Host::Site(site), limit, doubled, move || {
                    let world = Arc::clone(&there);
                    let site = Arc::clone(&there.sites[site]);
                    let order = order.clone();
                    async move { site.operate(&world, order, fenced, deadline).await }
                })
                .await;
            let outcome = match answer {
                Ok(outcome) => outcome,
                Err(NoAnswer::NotSent) => not_sent("connection refused"),
                Err(NoAnswer::Unknown) => {
                    ResultOutcome::Unknown { error: "no answer".into(), retry_after: None }
                }
            };
            world.note(
                node,
                Some(call.xid),
                format_args!(
                    "hears of {} {} #{}: {}",
                    call.operation,
                    call.key,
                    call.attempt,
                    word(&outcome)
                ),
            );
            results.send(reply(&call, outcome, started.elapsed()));
        }));
    }
}

fn word(outcome: &ResultOutcome) -> &'static str {
    match outcome {
        ResultOutcome::Done => "done",
        ResultOutcome::Result(_) => "result",
        ResultOutcome::Voted(_) => "voted",
        ResultOutcome::Refused { .. } => "refused",
        ResultOutcome::Sealed { .. } => "sealed",
        ResultOutcome::Unknown { .. } => "unknown",
        ResultOutcome::NotYet { .. } => "not yet",
        ResultOutcome::Unusable { .. } => "unusable",
        ResultOutcome::NotSent { .. } => "not sent",
    }
}

fn reply(call: &BranchCall, outcome: ResultOutcome, took: Duration) -> BranchReply {
    BranchReply {
        xid: call.xid,
        branch_id: call.branch_id,
        operation: call.operation,
        attempt: call.attempt,
        position: call.position,
        outcome,
        took,
    }
}
