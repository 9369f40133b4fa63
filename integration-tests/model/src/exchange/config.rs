//! What a run of the model is about, and which rule it breaks on purpose.

use unanimity_types::Mode;

use crate::core_table::Shape;

/// A rule that is broken on purpose: the checker must find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Operations go out before their decision is durable.
    ActBeforeDurable,
    /// Answers go out before their block is durable.
    AnswerBeforeDurable,
    /// An answer without an event of its own does not wait for what it looked at (C5).
    DuplicateFromMemory,
    /// Cancels and rollbacks do not wait for the abort's block (C1).
    CancelBeforeAbortBlock,
    /// "Unknown, so aborted" is said without a record (C2).
    UnknownWithoutAppend,
    /// An owner writes whoever wrote meanwhile (I9).
    TakenSeqIgnored,
    /// A takeover keeps undecided transactions that were begun without a call (C3).
    TakeoverKeepsTicketed,
    /// A cancel before its try leaves nothing behind.
    NoTombstone,
    /// A deadline commits.
    CommitOnTimeout,
    /// A registration after the decision is acknowledged (I8).
    RegisterAfterDecision,
    /// What failed once is not tried again.
    DroppedOnRetryLimit,
    /// After a takeover a delegation is presumed aborted (H4).
    DelegationPresumedAborted,
    /// A step goes out before the end of the one before it is durable (C6).
    StepBeforeDurable,
    /// A refusal counts as "did nothing" whatever went before (H2).
    RefusalAlwaysClean,
    /// A takeover holds compensations of unfenced steps not back (H3).
    NoHold,
    /// An owner that lost its lease sends steps all the same (H3).
    LeaseIgnored,
    /// All steps are compensated at once.
    CompensationOrder,
    /// The votes are not compared with the registered branches (H1).
    VotesNotCompared,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The transaction's mode.
    pub mode: Mode,
    /// How many participants there are.
    pub sites: u8,
    /// Begun without a call.
    pub ticketed: bool,
    /// A single branch may commit in one phase.
    pub one_phase: bool,
    /// The place of a saga's pivot.
    pub pivot: Option<u8>,
    /// The participants keep a fence: late and doubled requests are known to them.
    pub fenced: bool,
    /// Participants may refuse.
    pub refusals: bool,
    /// Participants may have changed nothing.
    pub read_only: bool,
    /// Participants may lose what they have not prepared.
    pub losses: bool,
    /// Participants in doubt ask for the outcome.
    pub in_doubt: bool,
    /// How often the client begins, registers each branch, commits, aborts and asks at most.
    pub begins: u8,
    /// See above.
    pub registrations: u8,
    /// See above.
    pub commits: u8,
    /// See above.
    pub aborts: u8,
    /// See above.
    pub asks: u8,
    /// How many deaths there are at most.
    pub deaths: u8,
    /// How many takeovers there are at most, after the first owner's.
    pub takeovers: u8,
    /// Attempts of this number do not fail.
    pub attempts: u8,
    /// How many verdicts may wait for a block.
    pub held: usize,
    /// How long time runs.
    pub ticks: u8,
    /// The deadline, in ticks.
    pub timeout: u8,
    /// How many ticks a deposed owner may believe in its lease.
    pub lease: u8,
    /// How many ticks a call may take.
    pub call: u8,
    /// What is broken on purpose.
    pub bug: Option<Bug>,
}

impl Config {
    /// Two-phase commit with two or three participants, a crash, a takeover, and a network that loses and doubles.
    #[must_use]
    pub fn two_phase(sites: u8) -> Self {
        Self {
            mode: Mode::TwoPhase,
            sites,
            ticketed: false,
            one_phase: false,
            pivot: None,
            fenced: true,
            refusals: true,
            read_only: false,
            losses: false,
            in_doubt: false,
            begins: 1,
            registrations: 1,
            commits: 1,
            aborts: 0,
            asks: 0,
            deaths: 0,
            takeovers: 1,
            attempts: 1,
            held: 2,
            ticks: 1,
            timeout: 1,
            lease: 1,
            call: 1,
            bug: None,
        }
    }

    /// TCC, begun by call: its branches' tries are late or early, and whoever is in doubt asks.
    #[must_use]
    pub fn tcc(sites: u8) -> Self {
        Self { mode: Mode::Tcc, refusals: false, in_doubt: true, ..Self::two_phase(sites) }
    }

    /// TCC, begun without a call.
    #[must_use]
    pub fn ticketed(sites: u8) -> Self {
        Self { ticketed: true, ..Self::tcc(sites) }
    }

    /// A saga of steps that know late and doubled requests. Time goes on until no compensation is held back.
    #[must_use]
    pub fn saga(sites: u8) -> Self {
        Self { mode: Mode::Saga, attempts: 2, held: 1, ticks: 3, ..Self::two_phase(sites) }
    }

    /// A saga of services that know nothing: only time keeps late actions away (H3).
    #[must_use]
    pub fn unfenced_saga(sites: u8) -> Self {
        Self { fenced: false, ticks: 4, timeout: 2, ..Self::saga(sites) }
    }

    /// The same with a rule broken.
    #[must_use]
    pub fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            mode: self.mode,
            sites: self.sites,
            ticketed: self.ticketed,
            one_phase: self.one_phase,
            pivot: self.pivot,
            timeout: self.timeout,
            lease: self.lease,
            call: self.call,
        }
    }
}
