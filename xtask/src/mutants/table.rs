//! Which test must catch which planted bug.

/// Where tests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suite {
    /// The core's tests.
    Core,
    /// The engine over the memory log.
    Engine,
    /// The logs.
    Log,
    /// Tests within the coordinator's rooms.
    Rooms,
    /// The SDK's.
    Sdk,
    /// The model, which drives the core.
    Model,
}

impl Suite {
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Core => "unanimity-core",
            Self::Engine | Self::Log | Self::Rooms => "unanimity-coordinator",
            Self::Sdk => "unanimity-sdk",
            Self::Model => "unanimity-model",
        }
    }

    /// What cargo calls its program.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Core | Self::Model => "suite",
            Self::Engine => "engine",
            Self::Log => "log",
            Self::Rooms => "unanimity_coordinator",
            Self::Sdk => "sdk",
        }
    }

    pub(super) fn target(self) -> Vec<&'static str> {
        match self {
            Self::Rooms => vec!["--lib"],
            _ => vec!["--test", self.name()],
        }
    }

    pub(super) const fn directory(self) -> &'static str {
        match self {
            Self::Core => "coordinator/core",
            Self::Engine | Self::Log | Self::Rooms => "coordinator",
            Self::Sdk => "participant-sdk",
            Self::Model => "integration-tests/model",
        }
    }
}

/// A planted bug.
#[derive(Debug)]
pub(super) struct Planted {
    /// Its name.
    pub(super) name: &'static str,
    /// The suites that are run, one after the other until one catches it, each with the tests that must.
    pub(super) caught_by: &'static [(Suite, &'static [&'static str])],
}

const fn planted(name: &'static str, caught_by: &'static [(Suite, &'static [&'static str])]) -> Planted {
    Planted { name, caught_by }
}

/// Every one.
pub(super) const MUTANTS: &[Planted] = &[
    planted(
        "act_before_durable",
        &[(Suite::Engine, &["c1_a_cancel_waits_for_the_aborts_block", "m7_recovery_lets_out"])],
    ),
    planted("cancel_before_abort_block", &[(Suite::Engine, &["c1_a_cancel_waits_for_the_aborts_block"])]),
    planted("answer_before_durable", &[(Suite::Engine, &["c5_every_answer_waits_for_what_it_looked_at"])]),
    planted("duplicate_from_memory", &[(Suite::Engine, &["c5_every_answer_waits_for_what_it_looked_at"])]),
    planted("dispatch_before_predecessor", &[(Suite::Engine, &["c6_s7_a_step_waits"])]),
    planted("taken_seq_ignored", &[(Suite::Engine, &["c1_i9_a_deposed_owner_writes_nothing"])]),
    planted(
        "unknown_without_append",
        &[(Suite::Engine, &["c2_an_inquiry_for_an_unknown_xid_aborts_it_for_good"])],
    ),
    planted(
        "takeover_keeps_ticketed",
        &[(Suite::Engine, &["c3_a_lost_registration_cannot_be_left_out_of_a_commit"])],
    ),
    planted("settled_by_read", &[(Suite::Engine, &["c4_an_append_of_unknown_outcome"])]),
    planted(
        "already_there_releases",
        &[(Suite::Engine, &["c4_an_append_of_unknown_outcome", "c4_h16_a_refused_block"])],
    ),
    planted("trim_deletes_epoch_block", &[(Suite::Log, &["c7"])]),
    planted(
        "epoch_block_forgotten",
        &[(Suite::Engine, &["c1_i9_a_deposed_owner_writes_nothing", "t1_2_what_an_unclean_end_lost"])],
    ),
    planted("lease_ignored", &[(Suite::Engine, &["h3_f1_s8_a_deposed_owner"])]),
    planted("projection_trims_early", &[(Suite::Engine, &["c8", "i3_i4"])]),
    planted("stale_projection_wins", &[(Suite::Log, &["h12"])]),
    planted("witness_ignored", &[(Suite::Engine, &["h6_c8_a_lost_tail"])]),
    planted("commit_on_timeout", &[(Suite::Core, &["rules::"]), (Suite::Model, &["tcc_with_late"])]),
    planted("dropped_on_retry_limit", &[(Suite::Core, &["rules::", "histories"])]),
    planted("compensation_order", &[(Suite::Core, &["rules::sagas"])]),
    planted("compensation_overtakes", &[(Suite::Core, &["rules::sagas"])]),
    planted("no_hold_after_takeover", &[(Suite::Core, &["rules::sagas"]), (Suite::Model, &["h3_a_saga"])]),
    planted("register_after_decision", &[(Suite::Core, &["rules::"])]),
    planted("refusal_always_clean", &[(Suite::Core, &["rules::sagas"])]),
    planted("votes_not_compared", &[(Suite::Core, &["rules::"])]),
    planted("early_read_only", &[(Suite::Core, &["rules::two_phase"])]),
    planted("one_phase_presumes_abort", &[(Suite::Core, &["rules::two_phase"])]),
    planted("pivot_turns_back", &[(Suite::Core, &["rules::sagas"])]),
    planted("no_tombstone", &[(Suite::Sdk, &["fence"])]),
    planted("late_try_succeeds", &[(Suite::Sdk, &["fence"])]),
    planted("no_fence", &[(Suite::Sdk, &["fence"])]),
    planted("check_back_by_select", &[(Suite::Sdk, &["messages"])]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What `proto/types/src/mutant.rs` has is in the table, and nothing else.
    #[test]
    fn every_planted_bug_is_in_the_table() {
        let source =
            std::fs::read_to_string(crate::files::root().join("proto/types/src/mutant.rs")).expect("there");
        let mut planted: Vec<&str> = source
            .lines()
            .filter_map(|line| line.trim().split_once(" => \"")?.1.strip_suffix("\","))
            .collect();
        let mut listed: Vec<&str> = MUTANTS.iter().map(|planted| planted.name).collect();
        planted.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, planted);
        assert!(listed.len() >= 24);
    }
}
