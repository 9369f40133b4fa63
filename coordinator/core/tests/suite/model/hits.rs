//! What the histories are meant to run into, and how often they did (I12).

macro_rules! hits {
    ($($name:ident),+ $(,)?) => {
        /// A situation worth testing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Hit { $($name),+ }

        impl Hit {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

hits!(
    AbortByClient,
    AbortOfCommitted,
    AttemptNotWritten,
    AttemptsLostInCrash,
    AttentionFailing,
    AttentionRefuses,
    AttentionUnusable,
    BeginAfterPresumed,
    BranchKeyReused,
    BranchMissing,
    BranchNotVoted,
    CancelBeforeTry,
    CommitInProgress,
    CommitOfAborted,
    CommitOfAll,
    CommitOfNothing,
    CommitOfSome,
    CommitWaits,
    ConfirmBeforeTry,
    Contradicted,
    Crash,
    CrashBeforeAnything,
    CrashKeepsUnreleased,
    CrashLosesDecision,
    CrashWhileBackingOff,
    CrashWithUndecidedCommit,
    CrashWithoutLoss,
    DeadlineAbort,
    DeadlineAtCommit,
    DeadlineAtRegistration,
    DecidedAfterLostDecision,
    DelayedMessage,
    FinishedByHand,
    LateRegistrationCompletes,
    LateResult,
    LateTryRefused,
    OldAttemptSettles,
    OperationRepeated,
    ParticipantAsks,
    ParticipantSettlesItself,
    PresumedByAbort,
    PresumedByCommit,
    PresumedByInquiry,
    PresumedByRegistration,
    RegistrationAfterDecision,
    RegistrationRepeated,
    RepeatedBegin,
    RepeatedCommit,
    ResolvedAgainst,
    ResolvedWith,
    RetryByOperator,
    SnapshotTrims,
    SnapshotWhileBackingOff,
    SnapshotWhileCommitWaits,
    StaleTimer,
    StrayResult,
    VolatileEffectsAtOnce,
    Wake,
    XidReused,
);

/// How often each.
pub(crate) struct Hits([u64; Hit::ALL.len()]);

impl Default for Hits {
    fn default() -> Self {
        Self([0; Hit::ALL.len()])
    }
}

impl Hits {
    pub(super) fn count(&mut self, hit: Hit) {
        self.0[hit as usize] += 1;
    }

    pub(crate) fn of(&self, hit: Hit) -> u64 {
        self.0[hit as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }
}
