//! What the application calls: a try or a piece of two-phase work, which registers its branch, and a sender's
//! local transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_coordinator::engine::{Claim, Register, TwoPhase};
use unanimity_types::{BranchKey, BranchKind, BranchTargets, CallPolicy, Name, Operation, Target, Vote, Xid};

use super::{Site, State, payload_of};
use crate::checks::Did;
use crate::hits::Hit;
use crate::world::World;

/// What a TM's call of a service carries.
#[derive(Debug, Clone)]
pub(crate) struct TryOrder {
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) kind: BranchKind,
    pub(crate) delta: i64,
    pub(crate) claim: Claim,
    pub(crate) early: bool,
    pub(crate) one_phase: bool,
    /// It votes by a call of its own.
    pub(crate) votes: bool,
    pub(crate) locks: Vec<Name>,
}

/// How it ended, as the TM sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    /// The vote is in.
    Voted,
    Failed,
}

/// How a sender's local transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    Committed,
    RolledBack,
}

pub(crate) fn participant(site: usize, operation: &str) -> Target {
    Target::Participant { participant: name(&format!("s{site}")), operation: name(operation) }
}

pub(crate) fn name(text: &str) -> Name {
    // The simulation's own names are valid ones.
    Name::new(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

impl Site {
    /// A service does its part: registers, tries in its local transaction, answers with its vote.
    pub(crate) async fn try_branch(self: Arc<Self>, world: Arc<World>, order: TryOrder) -> Tried {
        let TryOrder { xid, key, kind, delta, .. } = order.clone();
        let Some(held) = self.hold(xid, &key) else { return Tried::Failed };
        if let Some(row) = self.row(xid, &key) {
            return match row.state {
                State::Tried | State::Confirmed | State::Prepared | State::Committed => {
                    world.hit(Hit::TryRepeated);
                    Tried::Voted
                }
                _ => {
                    world.hit(Hit::LateTry);
                    Tried::Failed
                }
            };
        }
        let at = (xid, key.clone());
        if self.memory.get().working.contains_key(&at) {
            world.hit(Hit::TryRepeated);
            return Tried::Voted;
        }
        let register = Register {
            xid,
            key: Some(key.clone()),
            targets: BranchTargets::One(participant(self.number, kind.as_str())),
            payload: payload_of(delta),
            kind: Some(kind),
            two_phase: TwoPhase {
                early: order.early,
                one_phase: order.one_phase,
                instance: (kind == BranchKind::TwoPhase && !order.early).then(|| name(&self.instance())),
            },
            policy: CallPolicy::default(),
            lock_keys: order.locks.clone(),
            lock_wait: Duration::from_millis(400),
        };
        let tries = 1 + world.dice(|dice| dice.usize(..4));
        let claim = order.claim.clone();
        let registered = world
            .command(self.host(), xid, &format!("register {key}"), tries, move |coordinator| {
                let (register, claim) = (register.clone(), claim.clone());
                async move { coordinator.register_as(register, claim).await }
            })
            .await;
        if registered.is_err() {
            return Tried::Failed;
        }
        self.works(&world).await;
        if world.in_trouble() && world.percent(4) {
            return Tried::Failed; // Sold out: nothing was written, the TM hears an error.
        }
        if kind == BranchKind::TwoPhase && !order.early {
            self.memory.get().working.insert(at, (delta, Instant::now()));
            world.note(self.host(), Some(xid), format_args!("{key} works {delta:+}"));
            world.check(|checks| checks.does(xid, &key, Operation::Try, Did::Open));
            drop(held);
            if order.votes {
                self.vote(&world, xid, &key).await;
            }
            return Tried::Voted;
        }
        let (state, moves) = match kind {
            BranchKind::TwoPhase => {
                world.hit(Hit::EarlyPrepared);
                (State::Prepared, 0)
            }
            // What is taken away is taken away at once.
            _ => (State::Tried, delta.min(0)),
        };
        self.commit(
            &world,
            (xid, &key, Operation::Try),
            (kind, state, delta, Bytes::new()),
            moves,
            Did::Open,
        );
        drop(held);
        Tried::Voted
    }

    /// It prepares by itself and says so.
    async fn vote(&self, world: &Arc<World>, xid: Xid, key: &BranchKey) {
        let Some(_held) = self.hold(xid, key) else { return };
        let at = (xid, key.clone());
        let Some((delta, _)) = self.memory.get().working.get(&at).copied() else { return };
        if self.row(xid, key).is_some() {
            return;
        }
        self.works(world).await;
        self.memory.get().working.remove(&at);
        let row = (BranchKind::TwoPhase, State::Prepared, delta, Bytes::new());
        self.commit(world, (xid, key, Operation::Prepare), row, 0, Did::Open);
        let key = key.clone();
        let voted = world.command(self.host(), xid, "vote", 3, move |coordinator| {
            let key = key.clone();
            async move { coordinator.vote(xid, key, Vote::Prepared).await }
        });
        // Whoever asks it to prepare hears the same.
        drop(voted.await);
    }

    /// The local transaction that a message goes with.
    pub(crate) async fn local(self: Arc<Self>, world: Arc<World>, xid: Xid, delta: i64) -> Local {
        let key = sender();
        let Some(held) = self.hold(xid, &key) else { return Local::RolledBack };
        if let Some(row) = self.row(xid, &key) {
            world.hit(Hit::LocalRefused);
            return if row.state == State::Tried { Local::Committed } else { Local::RolledBack };
        }
        let most = if world.percent(25) { 4_000 } else { 30 };
        tokio::time::sleep(world.up_to(Duration::from_millis(most))).await;
        if world.percent(15) {
            return Local::RolledBack;
        }
        world.hit(Hit::SenderCommitted);
        let row = (BranchKind::Sender, State::Tried, delta, Bytes::new());
        self.commit(&world, (xid, &key, Operation::Try), row, delta, Did::Effect);
        drop(held);
        Local::Committed
    }
}

/// The key of a message's sender.
pub(crate) fn sender() -> BranchKey {
    key(BranchKey::SENDER)
}

pub(crate) fn key(text: &str) -> BranchKey {
    // The simulation's own keys are valid ones.
    BranchKey::new(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::delta_of;

    #[test]
    fn a_payload_says_what_a_branch_moves() {
        assert_eq!(delta_of(&payload_of(-7)), -7);
        assert_eq!(delta_of(&Bytes::new()), 0);
    }
}
