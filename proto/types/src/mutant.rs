//! Planted bugs, to show that the tests would find them: `cargo xtask mutants`.
//!
//! Only a build with `--cfg unanimity_mutants` has them, and in it only the one that `UNANIMITY_MUTANT` names at
//! run time: one build, many runs. In every other build [`is`] is `false` for the compiler, and nothing of
//! them is left.

#[cfg(all(unanimity_mutants, not(debug_assertions)))]
compile_error!("planted bugs are for tests: no release build may have them");

macro_rules! mutants {
    ($($(#[$meta:meta])* $variant:ident => $word:literal,)*) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$meta])* $variant,)* }

        impl Mutant {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

mutants! {
    /// Operations go out before their decision is durable.
    ActBeforeDurable => "act_before_durable",
    /// Cancels do not wait for the abort's block (C1).
    CancelBeforeAbortBlock => "cancel_before_abort_block",
    /// Answers go out before their block is durable.
    AnswerBeforeDurable => "answer_before_durable",
    /// An answer without an event of its own does not wait for what it looked at (C5).
    DuplicateFromMemory => "duplicate_from_memory",
    /// A step goes out before the end of the one before it is durable (C6).
    DispatchBeforePredecessor => "dispatch_before_predecessor",
    /// A block is written over the one that took its place.
    TakenSeqIgnored => "taken_seq_ignored",
    /// "Unknown, so aborted" is said without a record (C2).
    UnknownWithoutAppend => "unknown_without_append",
    /// An unclean takeover keeps what was begun without a call (C3).
    TakeoverKeepsTicketed => "takeover_keeps_ticketed",
    /// An append of unknown outcome is settled by a look (C4).
    SettledByRead => "settled_by_read",
    /// A block that is found to be there counts as acknowledged (C4).
    AlreadyThereReleases => "already_there_releases",
    /// A trim deletes epoch blocks as well (C7).
    TrimDeletesEpochBlock => "trim_deletes_epoch_block",
    /// A new owner makes no mark in the log.
    EpochBlockForgotten => "epoch_block_forgotten",
    /// An owner sends what no decision stands behind after its lease (H3).
    LeaseIgnored => "lease_ignored",
    /// What ended leaves memory though its row in history could not be written.
    ProjectionTrimsEarly => "projection_trims_early",
    /// An older row of history replaces a newer one (H12).
    StaleProjectionWins => "stale_projection_wins",
    /// Nobody listens to who saw what the log does not hold (H6).
    WitnessIgnored => "witness_ignored",
    /// A deadline commits.
    CommitOnTimeout => "commit_on_timeout",
    /// What was decided is not tried any more after some attempts.
    DroppedOnRetryLimit => "dropped_on_retry_limit",
    /// Steps are compensated in any order.
    CompensationOrder => "compensation_order",
    /// A compensation does not wait for the action that still runs (H3).
    CompensationOvertakes => "compensation_overtakes",
    /// After a takeover no compensation is held back (H3).
    NoHoldAfterTakeover => "no_hold_after_takeover",
    /// A branch registers after the decision (I8).
    RegisterAfterDecision => "register_after_decision",
    /// A refusal after an attempt of unknown outcome counts as clean (H2).
    RefusalAlwaysClean => "refusal_always_clean",
    /// The votes that a commit names are not compared with what is registered (H1).
    VotesNotCompared => "votes_not_compared",
    /// A branch that was not asked may leave as read-only (M11).
    EarlyReadOnly => "early_read_only",
    /// A one-phase commit of unknown outcome is presumed aborted (H4).
    OnePhasePresumesAbort => "one_phase_presumes_abort",
    /// A saga turns back past its pivot (H14).
    PivotTurnsBack => "pivot_turns_back",
    /// A cancel without a try leaves no tombstone.
    NoTombstone => "no_tombstone",
    /// A try after its cancel is answered as if it had been done.
    LateTrySucceeds => "late_try_succeeds",
    /// What comes a second time has its effect a second time.
    NoFence => "no_fence",
    /// A check-back looks instead of writing (H5).
    CheckBackBySelect => "check_back_by_select",
}

/// Whether this bug is planted in this run.
#[cfg(unanimity_mutants)]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let word = std::env::var("UNANIMITY_MUTANT").ok()?;
        let known = Mutant::ALL.iter().copied().find(|mutant| mutant.word() == word);
        assert!(known.is_some(), "there is no planted bug {word}");
        known
    });
    *chosen == Some(mutant)
}

/// Whether this bug is planted: in this build none is.
#[cfg(not(unanimity_mutants))]
#[inline(always)]
#[must_use]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
