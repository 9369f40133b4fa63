//! What an operation does, by what the fence's row says.

use bytes::Bytes;
use unanimity_coordinator::engine::BranchCall;
use unanimity_core::ResultOutcome;
use unanimity_types::{BranchKind, Operation, StepRole, Vote};

use super::{Site, State, delta_of};
use crate::checks::Did;
use crate::hits::Hit;
use crate::world::World;

fn refused(why: &str) -> ResultOutcome {
    ResultOutcome::Refused { error: why.into() }
}

fn kind_of(call: &BranchCall) -> BranchKind {
    call.kind
}

impl Site {
    pub(super) fn confirm(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        match self.row(call.xid, &call.key).map(|row| row.state) {
            Some(State::Tried) => {
                let row = (BranchKind::Tcc, State::Confirmed, delta, Bytes::new());
                self.commit(world, (call.xid, &call.key, call.operation), row, delta.max(0), Did::Effect);
                ResultOutcome::Done
            }
            Some(State::Confirmed) => {
                world.hit(Hit::ConfirmRepeated);
                ResultOutcome::Done
            }
            None => {
                world.hit(Hit::ConfirmBeforeTry);
                ResultOutcome::NotYet { error: "no try yet".into() }
            }
            Some(state) => self.contradicts(world, call, state),
        }
    }

    fn contradicts(&self, world: &World, call: &BranchCall, state: State) -> ResultOutcome {
        world.check(|checks| {
            let why = format!("I6: {} meets {state:?}", call.operation);
            checks.contradiction(call.xid, &call.key, &why);
        });
        refused("the opposite was done")
    }

    pub(super) fn cancel(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        let at = (call.xid, &call.key, call.operation);
        match self.row(call.xid, &call.key).map(|row| row.state) {
            None => {
                world.hit(Hit::NullCancel);
                let row = (BranchKind::Tcc, State::Tombstone, delta, Bytes::new());
                self.commit(world, at, row, 0, Did::Undone);
                ResultOutcome::Done
            }
            Some(State::Tried) => {
                let row = (BranchKind::Tcc, State::Cancelled, delta, Bytes::new());
                self.commit(world, at, row, -delta.min(0), Did::Undone);
                ResultOutcome::Done
            }
            Some(State::Cancelled | State::Tombstone) => {
                world.hit(Hit::CancelRepeated);
                ResultOutcome::Done
            }
            Some(state) => self.contradicts(world, call, state),
        }
    }

    /// A step with a fence: it remembers what it answered and what was undone.
    pub(super) fn action(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        world.check(|checks| checks.inputs(call.xid, &call.key, &call.inputs));
        let may_end = call.role != Some(StepRole::ForwardOnly);
        match self.row(call.xid, &call.key) {
            Some(row) if row.state == State::Tried => {
                world.hit(Hit::ActionRepeated);
                ResultOutcome::Result(row.result)
            }
            Some(row) => {
                world.hit(Hit::LateActionRefused);
                if row.state == State::Tombstone && may_end {
                    return ResultOutcome::Sealed { error: "it was refused or compensated before".into() };
                }
                refused("it was compensated")
            }
            None if world.in_trouble() && world.percent(9) => {
                if !may_end {
                    return refused("sold out");
                }
                let delta = delta_of(&call.payload);
                let row = (BranchKind::Step, State::Tombstone, delta, Bytes::new());
                self.commit(world, (call.xid, &call.key, Operation::Try), row, 0, Did::Undone);
                ResultOutcome::Sealed { error: "sold out".into() }
            }
            None => self.act(world, call),
        }
    }

    fn act(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        let result = Bytes::from(format!("{} {}", call.key, world.dice(|dice| dice.u32(..1_000))));
        let row = (BranchKind::Step, State::Tried, delta, result.clone());
        self.commit(world, (call.xid, &call.key, call.operation), row, delta, Did::Effect);
        if call.role == Some(StepRole::Pivot) {
            world.hit(Hit::PivotDone);
        }
        ResultOutcome::Result(result)
    }

    pub(super) fn compensate(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        let at = (call.xid, &call.key, call.operation);
        match self.row(call.xid, &call.key).map(|row| row.state) {
            Some(State::Tried) => {
                world.hit(Hit::Compensated);
                let row = (BranchKind::Step, State::Cancelled, delta, Bytes::new());
                self.commit(world, at, row, -delta, Did::Undone);
            }
            None => {
                world.hit(Hit::NullCompensation);
                let row = (BranchKind::Step, State::Tombstone, delta, Bytes::new());
                self.commit(world, at, row, 0, Did::Undone);
            }
            Some(_) => world.hit(Hit::CancelRepeated),
        }
        ResultOutcome::Done
    }

    /// A step without a fence: a unique key on what is there, and no more.
    pub(super) fn plain_action(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        world.check(|checks| checks.inputs(call.xid, &call.key, &call.inputs));
        if self.row(call.xid, &call.key).is_some_and(|row| row.state == State::Tried) {
            world.hit(Hit::ConflictAfterUnknown);
            return refused("409: there is one already");
        }
        if world.in_trouble() && world.percent(9) {
            return refused("sold out");
        }
        self.act(world, call)
    }

    pub(super) fn plain_compensate(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        let there = self.row(call.xid, &call.key).is_some_and(|row| row.state == State::Tried);
        world.hit(if there { Hit::Compensated } else { Hit::NullCompensation });
        let row = (BranchKind::Step, State::Cancelled, delta, Bytes::new());
        let at = (call.xid, &call.key, call.operation);
        self.commit(world, at, row, if there { -delta } else { 0 }, Did::Undone);
        ResultOutcome::Done
    }

    pub(super) fn two_phase(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        let delta = delta_of(&call.payload);
        let at = (call.xid, call.key.clone());
        let working = self.memory.get().working.contains_key(&at);
        let state = self.row(call.xid, &call.key).map(|row| row.state);
        let set = |state, moves, did| {
            self.memory.get().working.remove(&at);
            let row = (kind_of(call), state, delta, Bytes::new());
            self.commit(world, (call.xid, &call.key, call.operation), row, moves, did);
        };
        match (call.operation, state) {
            (Operation::Prepare, None) if working => {
                if delta == 0 {
                    world.hit(Hit::ReadOnlyVote);
                    set(State::ReadOnly, 0, Did::ReadOnly);
                    return ResultOutcome::Voted(Vote::ReadOnly);
                }
                if world.in_trouble() && world.percent(8) {
                    set(State::RolledBack, 0, Did::Undone);
                    return ResultOutcome::Voted(Vote::Refused);
                }
                world.hit(Hit::Prepared);
                set(State::Prepared, 0, Did::Open);
                ResultOutcome::Voted(Vote::Prepared)
            }
            (Operation::Prepare, None) => {
                world.hit(Hit::WorkLost);
                set(State::RolledBack, 0, Did::Undone);
                refused("the work is gone")
            }
            (Operation::Prepare, Some(State::Prepared | State::Committed)) => {
                ResultOutcome::Voted(Vote::Prepared)
            }
            (Operation::Prepare, Some(State::ReadOnly)) => ResultOutcome::Voted(Vote::ReadOnly),
            (Operation::Prepare, Some(_)) => refused("it was rolled back"),
            (Operation::Commit, Some(State::Prepared)) => {
                set(State::Committed, delta, Did::Effect);
                ResultOutcome::Done
            }
            (Operation::Commit, Some(State::Committed)) => {
                world.hit(Hit::ConfirmRepeated);
                ResultOutcome::Done
            }
            (Operation::Commit, None) if !working => {
                world.hit(Hit::ConfirmBeforeTry);
                ResultOutcome::NotYet { error: "nothing is prepared".into() }
            }
            (Operation::Rollback, None | Some(State::Prepared)) => {
                set(State::RolledBack, 0, Did::Undone);
                ResultOutcome::Done
            }
            (Operation::Rollback, Some(State::RolledBack | State::ReadOnly)) => {
                world.hit(Hit::CancelRepeated);
                ResultOutcome::Done
            }
            (Operation::CommitOnePhase, None) if working => {
                if world.in_trouble() && world.percent(20) {
                    world.hit(Hit::DelegateRefused);
                    set(State::RolledBack, 0, Did::Undone);
                    return refused("a constraint fails");
                }
                set(State::Committed, delta, Did::Effect);
                ResultOutcome::Done
            }
            (Operation::CommitOnePhase, None) => {
                world.hit(Hit::DelegateRefused);
                set(State::RolledBack, 0, Did::Undone);
                refused("the work is gone")
            }
            (Operation::CommitOnePhase, Some(State::Prepared)) => {
                set(State::Committed, delta, Did::Effect);
                ResultOutcome::Done
            }
            (Operation::CommitOnePhase, Some(State::Committed)) => ResultOutcome::Done,
            (Operation::CommitOnePhase, Some(_)) => refused("it was rolled back"),
            (_, state) => {
                let state = state.unwrap_or(State::Tried);
                self.contradicts(world, call, state)
            }
        }
    }

    pub(super) fn deliver(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        if self.row(call.xid, &call.key).is_some() {
            world.hit(Hit::DeliveredAgain);
            return ResultOutcome::Done;
        }
        world.hit(Hit::Delivered);
        let delta = delta_of(&call.payload);
        let row = (BranchKind::Message, State::Confirmed, delta, Bytes::new());
        self.commit(world, (call.xid, &call.key, call.operation), row, delta, Did::Effect);
        ResultOutcome::Done
    }

    /// Inserts the sender's row as refused: it meets what is there (protocol H5).
    pub(super) fn check_back(&self, world: &World, call: &BranchCall) -> ResultOutcome {
        match self.row(call.xid, &call.key).map(|row| row.state) {
            Some(State::Tried) => {
                world.hit(Hit::CheckBackYes);
                ResultOutcome::Done
            }
            Some(_) => refused("it never will"),
            None => {
                world.hit(Hit::CheckBackNo);
                let row = (BranchKind::Sender, State::Tombstone, 0, Bytes::new());
                self.commit(world, (call.xid, &call.key, call.operation), row, 0, Did::Undone);
                refused("no row, and there will be none")
            }
        }
    }
}
