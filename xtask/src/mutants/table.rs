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
    /// The SDK's.
    Sdk,
}

impl Suite {
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Core => "unanimity-core",
            Self::Engine | Self::Log => "unanimity-coordinator",
            Self::Sdk => "unanimity-sdk",
        }
    }

    /// What cargo calls its program.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Core => "suite",
            Self::Engine => "engine",
            Self::Log => "log",
            Self::Sdk => "sdk",
        }
    }

    pub(super) const fn target(self) -> [&'static str; 2] {
        ["--test", self.name()]
    }

    pub(super) const fn directory(self) -> &'static str {
        match self {
            Self::Core => "coordinator/core",
            Self::Engine | Self::Log => "coordinator",
            Self::Sdk => "participant-sdk",
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
    planted("lease_ignored", &[(Suite::Engine, &["h3_f1_s8_a_deposed_owner_does_not_send"])]),
    planted("cancel_before_abort_block", &[(Suite::Engine, &["c1_a_cancel_waits_for_the_aborts_block"])]),
    planted("act_before_durable", &[(Suite::Engine, &["c1_s4_a_step_of_unknown_outcome"])]),
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
    planted(
        "trim_deletes_epoch_block",
        &[(Suite::Log, &["memory::c7_trim_keeps", "c7_a_stale_append_races_a_trim_in_memory"])],
    ),
    planted("epoch_block_forgotten", &[(Suite::Engine, &["c1_i9_a_deposed_owner_writes_nothing"])]),
    planted("projection_trims_early", &[(Suite::Engine, &["c8d_what_ended_stays_in_memory"])]),
    planted("stale_projection_wins", &[(Suite::Log, &["memory::h12_rows"])]),
    planted("witness_ignored", &[(Suite::Engine, &["h6_c8_a_lost_tail"])]),
    planted("commit_on_timeout", &[(Suite::Core, &["m2_at_its_deadline_in_partition_time"])]),
    planted("dropped_on_retry_limit", &[(Suite::Core, &["k8_a_confirm_before_its_try"])]),
    planted("compensation_order", &[(Suite::Core, &["i7_compensations_go_in_reverse_order"])]),
    planted("compensation_overtakes", &[(Suite::Core, &["h3_a_compensation_waits_for_the_action"])]),
    planted("no_hold_after_takeover", &[(Suite::Core, &["h3_after_a_takeover_a_compensation_waits"])]),
    planted("register_after_decision", &[(Suite::Core, &["i8_no_branch_registers_after_the_decision"])]),
    planted("refusal_always_clean", &[(Suite::Core, &["h2_a_refusal_after_an_unknown_attempt"])]),
    planted("votes_not_compared", &[(Suite::Core, &["h1_a_commit_needs_the_vote"])]),
    planted("early_read_only", &[(Suite::Core, &["m11_read_only_is_only_an_answer"])]),
    planted("one_phase_presumes_abort", &[(Suite::Core, &["h4_the_branch_decides"])]),
    planted("pivot_turns_back", &[(Suite::Core, &["h14_s9_from_the_pivots_dispatch"])]),
    planted("no_tombstone", &[(Suite::Sdk, &["sqlite::k2_cancel_before_try", "sqlite::k3_a_late_try"])]),
    planted("late_try_succeeds", &[(Suite::Sdk, &["sqlite::k3_a_late_try"])]),
    planted("no_fence", &[(Suite::Sdk, &["sqlite::k4_repeats_answer", "sqlite::o3_a_repeated_delivery"])]),
    planted("check_back_by_select", &[(Suite::Sdk, &["sqlite::h5_"])]),
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
