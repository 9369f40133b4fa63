//! What the histories ran into (I12).

use unanimity_core::{AttentionCode, Event};
use unanimity_types::{AbortReason, BranchStatus, Status};

use crate::tables::{EVENT_KINDS, EVENT_NAMES, event_kind};

macro_rules! rules {
    ($($name:ident),+ $(,)?) => {
        /// A situation that a rule is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Rule { $($name),+ }

        impl Rule {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

rules!(
    /* C6 */ ResultsHandedOn,
    /* H2 */ CleanRefusal,
    /* H2 */ UncleanRefusal,
    /* H2 */ ConflictAfterUnknown,
    /* H3 */ TurnWhileActionRuns,
    /* H3 */ CompensationHeldAfterTakeover,
    /* H3 */ LateActionRefused,
    /* H3 */ LateActionOfKnownResult,
    /* H3 */ KeptAfterItsAction,
    /* H3 */ LateActionArrives,
    /* H3 */ DeposedOwnerSends,
    /* H3 */ RollbackWaitsForPrepare,
    /* H4 */ DelegateAskedAgain,
    /* H4 */ DelegateRefuses,
    /* H4 */ AbortRefusedDelegated,
    /* H4 */ DeadlineOfDelegated,
    /* H5 */ CheckBackDuringOpenTransaction,
    /* H5 */ CheckBackSaysNo,
    /* H5 */ CheckBackSaysYes,
    /* H14 */ AbortRefusedPastPivot,
    /* H14 */ PivotRefusesCleanly,
    /* M11 */ EarlyReadOnlyRefused,
    /* M7 */ ReplayCompared,
    ReadOnlyOnly,
    Contradictory,
    VoteAfterDecision,
    LatePrepareAborts,
    ResultTooLarge,
    NullCompensation,
    CompensationRepeated,
    ActionRepeated,
    DeliveredOnce,
    DeliveryRepeated,
    Discarded,
    OperatorRetry,
    OperatorResolves,
    ParkedInCrash,
    Crash,
    SnapshotTrims,
    StaleTimer,
    Delayed,
);

/// How often each.
pub(crate) struct Hits {
    rules: [u64; Rule::ALL.len()],
    events: [u64; EVENT_KINDS],
    branches: [u64; BranchStatus::ALL.len()],
    statuses: [u64; Status::ALL.len()],
    codes: [u64; AttentionCode::ALL.len()],
    reasons: [u64; AbortReason::ALL.len()],
}

impl Default for Hits {
    fn default() -> Self {
        Self {
            rules: [0; Rule::ALL.len()],
            events: [0; EVENT_KINDS],
            branches: [0; BranchStatus::ALL.len()],
            statuses: [0; Status::ALL.len()],
            codes: [0; AttentionCode::ALL.len()],
            reasons: [0; AbortReason::ALL.len()],
        }
    }
}

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|known| known == one).expect("it is one of all")
}

impl Hits {
    pub(super) fn rule(&mut self, rule: Rule) {
        self.rules[rule as usize] += 1;
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.events[event_kind(event)] += 1;
        match event {
            Event::Presumed => self.reasons[place(AbortReason::ALL, &AbortReason::Presumed)] += 1,
            Event::AttentionRaised { code, .. } => self.codes[place(AttentionCode::ALL, code)] += 1,
            Event::Decided { reason: Some(reason), .. } => {
                self.reasons[place(AbortReason::ALL, reason)] += 1;
            }
            _ => {}
        }
    }

    pub(super) fn branch(&mut self, status: BranchStatus) {
        self.branches[place(BranchStatus::ALL, &status)] += 1;
    }

    pub(super) fn status(&mut self, status: Status) {
        self.statuses[place(Status::ALL, &status)] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let add = |mine: &mut [u64], theirs: &[u64]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        };
        add(&mut self.rules, &other.rules);
        add(&mut self.events, &other.events);
        add(&mut self.branches, &other.branches);
        add(&mut self.statuses, &other.statuses);
        add(&mut self.codes, &other.codes);
        add(&mut self.reasons, &other.reasons);
    }

    /// Every name with its count.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        let rules = Rule::ALL.iter().zip(self.rules).map(|(rule, count)| (format!("{rule:?}"), count));
        let events =
            EVENT_NAMES.iter().zip(self.events).map(|(name, count)| (format!("event {name}"), count));
        let branches =
            BranchStatus::ALL.iter().zip(self.branches).map(|(one, n)| (format!("branch {one}"), n));
        let statuses = Status::ALL.iter().zip(self.statuses).map(|(one, n)| (format!("status {one}"), n));
        let codes = AttentionCode::ALL.iter().zip(self.codes);
        let codes = codes.map(|(one, count)| (format!("attention {}", one.as_str()), count));
        let reasons = AbortReason::ALL.iter().zip(self.reasons).map(|(one, n)| (format!("abort {one}"), n));
        rules.chain(events).chain(branches).chain(statuses).chain(codes).chain(reasons).collect()
    }
}
