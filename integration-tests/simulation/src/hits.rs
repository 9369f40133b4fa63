//! Which faults and situations a run really met (I12): what a simulation claims and never does fails it.

use std::collections::BTreeMap;

macro_rules! hits {
    ($($(#[$meta:meta])* $variant:ident = $words:literal),+ $(,)?) => {
        /// A fault that happened, or a situation that was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Hit { $($(#[$meta])* #[doc = $words] $variant),+ }

        impl Hit {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// In words.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),+ }
            }
        }
    };
}

hits! {
    NodeCrash = "fault: a node is killed",
    NodePause = "fault: a node is paused for less than its lease",
    NodePauseBeyondLease = "fault: a node is paused beyond its lease",
    NodeStop = "fault: a node is shut down and started again",
    NodeDrain = "fault: a node is drained",
    ParticipantCrash = "fault: a participant is killed",
    ParticipantPause = "fault: a participant is paused",
    MessageLost = "fault: a message is lost",
    MessageDelayed = "fault: a message is late by more than its round trip",
    MessageDoubled = "fault: a message arrives twice",
    AnswerLost = "fault: an answer is lost",
    LinkCut = "fault: a link is cut in one direction",
    LinkCutDatabase = "fault: a node is cut off from the database in one direction",
    LogAway = "fault: the database is away",
    LogSlow = "fault: the database is slow",
    LogFailover = "fault: a failover of the database loses what it had not acknowledged",
    LogFailoverLost = "fault: that tail was not empty",
    LogLostAcknowledged = "fault: a failover of the database loses what it had acknowledged",
    ClockJump = "fault: a node's wall clock jumps",
    DatabaseClockJump = "fault: the database's clock jumps forward",
    AppendFailed = "log: an append failed",
    AppendRefused = "log: an append was refused",
    AppendDoneUnknown = "log: an append was done and reported as unknown",
    AppendLostUnknown = "log: an append was not done and reported as unknown",
    AppendLate = "log: an append lands after its sender was told unknown",
    LateLanded = "log: a late append wrote its block",
    LateRefused = "log: a late append found its place taken",
    TrimRaced = "log: a late append ran through a trim",
    TrimInterrupted = "log: a trim was interrupted",
    ReadFailed = "log: a read failed",
    LeaseFailed = "log: a lease call failed",
    BeatFailed = "log: a heartbeat failed",
    HistoryFailed = "log: history was not written",
    HistoryDoneUnknown = "log: history was written and reported as unknown",
    Takeover = "a partition changes its owner",
    TakeoverUnclean = "a partition changes its owner uncleanly",
    TakeoverClean = "a partition is handed over in order",
    AppendConflict = "a deposed owner's append is refused",
    StaleTicket = "a ticket of an earlier owner begins nothing",
    Trimmed = "blocks are trimmed",
    Cleaned = "open transactions are written again",
    LostTailFound = "a witness stops a partition",
    LossAccepted = "an operator accepts a loss",
    Commit = "a transaction commits",
    Abort = "a transaction aborts",
    Presumed = "a transaction that nobody knows is aborted by asking",
    OwnerChanged = "a takeover aborts what it cannot know",
    BranchMissing = "a commit names a branch that never registers",
    BranchNotVoted = "a commit does not name a registered branch",
    DeadlineAbort = "a deadline aborts",
    OutcomeUnknown = "a client is told that the outcome is unknown",
    ToldAgain = "a client is told the same outcome twice",
    LockTaken = "a lock is taken",
    LockConflict = "a lock conflict is answered",
    LateTry = "a try comes after its cancel",
    TryRepeated = "a try is repeated",
    ConfirmRepeated = "a confirm is repeated",
    CancelRepeated = "a cancel is repeated",
    NullCancel = "a cancel finds no try",
    ConfirmBeforeTry = "a confirm finds a try that has not ended",
    InDoubtConfirmed = "a participant in doubt learns of a commit",
    InDoubtCancelled = "a participant in doubt learns of an abort",
    RowCollected = "a participant collects a settled row",
    SagaCommitted = "a saga commits",
    SagaTurned = "a saga turns back",
    Compensated = "a step is compensated",
    NullCompensation = "a compensation finds no action",
    LateActionRefused = "a fence refuses an action after its compensation",
    ActionRepeated = "an action is repeated",
    ConflictAfterUnknown = "an unfenced step answers 409 to a repeat",
    PivotDone = "a pivot is done",
    SagaParallel = "two steps of a saga run at once",
    Prepared = "a branch prepares when it is asked",
    EarlyPrepared = "a branch prepares early",
    ReadOnlyVote = "a branch votes read-only",
    Delegated = "a decision is delegated to the only branch",
    DelegateRefused = "a delegate refuses",
    WorkLost = "a prepare finds that the work is gone",
    Delivered = "a message is delivered",
    DeliveredAgain = "a delivery is repeated",
    SenderCommitted = "a sender's local transaction commits",
    CheckBackYes = "a check-back says yes",
    CheckBackNo = "a check-back says no",
    CheckBackWaits = "a check-back meets an open local transaction",
    LocalRefused = "a local transaction finds that its message was given up",
    OperatorRetry = "an operator asks for a retry",
    OperatorAbort = "an operator aborts",
    OperatorResolve = "an operator settles a branch by hand",
    ManagerDied = "a transaction manager dies half-way",
    HedgedCommit = "a commit is sent to two nodes at once",
    WitnessHeard = "a witness is heard",
    NotSent = "a deposed or full owner does not send",
    AskedPeer = "a node asks the owner of another partition",
    ReadElsewhere = "a transaction is read at another node",
}

/// How often each was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits(BTreeMap<Hit, u64>);

impl Hits {
    pub(crate) fn add(&mut self, hit: Hit, times: u64) {
        if times > 0 {
            *self.0.entry(hit).or_default() += times;
        }
    }

    /// How often.
    #[must_use]
    pub fn of(&self, hit: Hit) -> u64 {
        self.0.get(&hit).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (hit, times) in &other.0 {
            self.add(*hit, *times);
        }
    }

    /// What was never met.
    #[must_use]
    pub fn missing(&self) -> Vec<Hit> {
        Hit::ALL.iter().copied().filter(|hit| self.of(*hit) == 0).collect()
    }

    /// A line for each.
    #[must_use]
    pub fn table(&self) -> String {
        Hit::ALL.iter().map(|hit| format!("{:>12}  {}\n", self.of(*hit), hit.words())).collect()
    }
}
