//! What is tried, as data: a few steps for each scenario, and how often the effect must have happened after them.
//!
//! TCC, saga and two-phase branches have the same shape, *begin, finish or undo*, under other names; so their scenarios
//! are written once.

mod message;
mod reversible;
mod sender;

use unanimity_types::Operation;

use super::Mode;
use super::urls::Urls;

/// What a participant can be relied on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarantee {
    /// A repeated call does not act again, and different branches are not taken for one.
    Idempotent,
    /// A call that comes late or out of order does not act.
    Fenced,
    /// What was done can be undone, without a trace.
    Compensates,
}

/// One step. An answer of *done* or *refused* that must come is asked for again while it is unknown or not yet there, as the
/// coordinator does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Must be done.
    Done(Operation),
    /// Must be answered as the last time.
    Again(Operation),
    /// Must be refused for good.
    Refused(Operation),
    /// Comes late: must be refused, or, repeated after it was done, may be answered as the first time.
    Harmless(Operation),
    /// Must not be done yet. Whether a refusal is right depends on the operation.
    NotDone { operation: Operation, may_refuse: bool },
    /// Called several times, hung up on at different moments.
    HangUp(Operation),
    /// Several at once: each must be done, with the same answer.
    AtOnce(Operation),
    /// Two operations at once, several times each. Either may win; the steps behind it judge.
    Race(Operation, Operation),
    /// A local transaction and check-backs at once: after a check-back's *no* the transaction must not commit.
    Agree,
    /// From here on the other transaction's branch with the same key; a second time: back.
    OtherXid,
    /// From here on the other branch of the same transaction; a second time: back.
    OtherKey,
}

/// A named row of steps on a fresh transaction.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) name: String,
    /// What it shows. `None`: without it nothing else can be judged.
    pub(super) guarantee: Option<Guarantee>,
    pub(super) steps: Vec<Step>,
    /// How often the effect happened in the end.
    pub(super) effects: i128,
    /// Whether the answers alone show nothing.
    pub(super) needs_observer: bool,
}

impl Scenario {
    fn new(name: impl Into<String>, guarantee: Guarantee, effects: i128, steps: Vec<Step>) -> Self {
        Self { name: name.into(), guarantee: Some(guarantee), steps, effects, needs_observer: false }
    }

    /// The one that must pass before the others make sense. It also measures what one effect is.
    fn basic(steps: Vec<Step>) -> Self {
        Self { name: "once".to_owned(), guarantee: None, steps, effects: 1, needs_observer: false }
    }

    fn for_observer(mut self) -> Self {
        self.needs_observer = true;
        self
    }
}

/// The mode's scenarios; the first is the basic one.
pub(super) fn all(mode: Mode, urls: &Urls) -> Vec<Scenario> {
    use Operation::{Action, Cancel, Commit, CommitOnePhase, Compensate, Confirm, Prepare, Rollback, Try};
    match mode {
        Mode::Tcc => reversible::scenarios(&reversible::Shape {
            work: None,
            begin: Try,
            finish: Some(Confirm),
            undo: Cancel,
            one_phase: None,
        }),
        Mode::Saga => reversible::scenarios(&reversible::Shape {
            work: None,
            begin: Action,
            finish: None,
            undo: Compensate,
            one_phase: None,
        }),
        Mode::TwoPhase => reversible::scenarios(&reversible::Shape {
            work: urls.has(Try).then_some(Try),
            begin: Prepare,
            finish: Some(Commit),
            undo: Rollback,
            one_phase: urls.has(CommitOnePhase).then_some(CommitOnePhase),
        }),
        Mode::Message => message::scenarios(),
        Mode::Sender => sender::scenarios(),
    }
}
