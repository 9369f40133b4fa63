//! Rows C1 to C15: the coordinator, from the begin to the archive.

use super::case::{Case, Want, run};
use super::story::Story::{
    Early, Late, LateRefused, Locked, OnePhase, OnePhaseRefused, Presumed, SagaRefused, Tcc, TccAbort,
};

const fn commits(row: &'static str, story: super::story::Story, point: &'static str) -> Case {
    Case::new(row, story, point, Want::Committed)
}

const fn aborts(row: &'static str, story: super::story::Story, point: &'static str) -> Case {
    Case::new(row, story, point, Want::Aborted)
}

const fn either(row: &'static str, story: super::story::Story, point: &'static str) -> Case {
    Case::new(row, story, point, Want::Either)
}

pub(super) const CASES: &[Case] = &[
    // Before the begin is durable: nothing exists; the same xid again makes exactly one.
    commits("C1", Tcc, "append.before.begun"),
    commits("C1", Tcc, "append.before.begun").second(),
    Case::new("C1", Tcc, "append.before.begun", Want::Nothing).gone(),
    // Begun, and the answer lost: again, or aborted at the deadline.
    commits("C2", Tcc, "append.after.begun"),
    commits("C2", Tcc, "append.after.begun").second(),
    aborts("C2", Tcc, "append.after.begun").gone(),
    // The same for a branch; whoever is told to cancel may have done nothing.
    commits("C3", Tcc, "append.before.registered"),
    commits("C3", Tcc, "append.after.registered"),
    commits("C3", Tcc, "append.after.registered").second(),
    aborts("C3", Tcc, "append.after.registered").gone().down(),
    aborts("C3", Late, "append.after.registered").gone().second(),
    // Some prepares are on their way. The round is durable before the first of them, so it is gone on with: everywhere
    // the same in the end. Where it is not durable, abort is presumed.
    commits("C4", Late, "append.before.prepares_asked"),
    aborts("C4", Late, "append.before.prepares_asked").gone(),
    either("C4", Late, "append.after.prepares_asked").gone(),
    either("C4", Late, "dispatch.before.prepare").down(),
    either("C4", Late, "dispatch.before.prepare").second().gone(),
    either("C4", Late, "dispatch.after.prepare").lossy(),
    aborts("C4", LateRefused, "dispatch.after.prepare").gone(),
    aborts("C4", LateRefused, "dispatch.before.prepare").second(),
    // All yes, in memory, and no decision.
    either("C5", Late, "result.prepare").gone(),
    either("C5", Late, "result.prepare").second().gone(),
    either("C5", Late, "append.before.voted").lossy(),
    either("C5", Late, "append.before.decided").down(),
    aborts("C5", Early, "append.before.decided").gone(),
    aborts("C5", Early, "append.before.decided").gone().second(),
    aborts("C5", Early, "append.after.voted").gone().second(),
    commits("C5", Early, "append.before.voted").second(),
    aborts("C5", Tcc, "append.before.decided").gone().down(),
    // The decision was offered to the log, and nobody was told.
    commits("C6", Tcc, "append.before.decided"),
    commits("C6", Tcc, "append.after.decided"),
    commits("C6", Tcc, "append.after.decided").second(),
    commits("C6", Late, "append.after.decided").down(),
    aborts("C6", TccAbort, "append.before.decided").second(),
    aborts("C6", Presumed, "append.before.presumed"),
    aborts("C6", Presumed, "append.after.presumed"),
    aborts("C6", Presumed, "append.after.presumed").second(),
    commits("C6", OnePhase, "append.before.delegated"),
    commits("C6", OnePhase, "append.after.delegated").gone().down(),
    // Decided, and nothing sent.
    commits("C7", Tcc, "append.after.decided").gone(),
    commits("C7", Tcc, "append.after.decided").gone().second(),
    commits("C7", Tcc, "dispatch.before.confirm").gone().down(),
    commits("C7", Late, "dispatch.before.commit").gone(),
    commits("C7", OnePhase, "dispatch.before.commit_one_phase").gone(),
    // Sent to some.
    commits("C8", Tcc, "dispatch.after.confirm").gone(),
    commits("C8", Tcc, "dispatch.before.confirm").second().lossy(),
    commits("C8", Late, "dispatch.after.commit").down(),
    commits("C8", Late, "dispatch.before.commit").second(),
    // Done, and not recorded.
    commits("C9", Tcc, "result.confirm").gone(),
    commits("C9", Tcc, "result.confirm").second().lossy(),
    commits("C9", Tcc, "append.before.branch_settled").down(),
    commits("C9", Tcc, "append.before.branch_settled").second(),
    commits("C9", Late, "result.commit").lossy(),
    commits("C9", OnePhase, "dispatch.after.commit_one_phase").second(),
    commits("C9", OnePhase, "result.commit_one_phase").lossy(),
    aborts("C9", OnePhaseRefused, "result.commit_one_phase").second(),
    // All done, not closed.
    commits("C10", Tcc, "append.after.branch_settled").gone(),
    commits("C10", Tcc, "append.before.finished"),
    commits("C10", Tcc, "append.before.finished").second().lossy(),
    commits("C10", Late, "append.after.finished").down(),
    commits("C10", Tcc, "append.after.finished").second(),
    // Aborted, and sent to some.
    aborts("C11", TccAbort, "append.after.decided").gone(),
    aborts("C11", TccAbort, "dispatch.before.cancel").second(),
    aborts("C11", TccAbort, "dispatch.before.cancel").down(),
    aborts("C11", TccAbort, "dispatch.after.cancel").lossy(),
    aborts("C11", TccAbort, "result.cancel").second(),
    aborts("C11", LateRefused, "dispatch.before.rollback").down(),
    aborts("C11", LateRefused, "dispatch.after.rollback").second(),
    aborts("C11", LateRefused, "result.rollback").lossy(),
    // A lock that was taken is held, or was not taken; one that was given back is free (protocol H7).
    commits("H7", Locked, "append.before.lock_acquired"),
    commits("H7", Locked, "append.after.lock_acquired").second(),
    aborts("H7", Locked, "append.after.lock_acquired").gone(),
    commits("H7", Locked, "append.before.lock_released"),
    // What is released is the lock of a transaction that is over: the TM may be at its next one.
    commits("H7", Locked, "append.before.lock_released").second(),
    commits("H7", Locked, "append.after.lock_released").down(),
    commits("H7", Locked, "append.after.decided").gone(),
    // On the way into the archive. The log's trim is in `archive.rs`.
    commits("C14", Tcc, "project.before"),
    commits("C14", Tcc, "project.before").second(),
    commits("C14", Tcc, "project.after"),
    commits("C14", Tcc, "project.after").second(),
    // The recovery dies too, and the next one.
    commits("C15", Tcc, "append.after.decided").again(&["recover.after_epoch", "recover.after_read"]),
    commits("C15", Tcc, "dispatch.before.confirm").again(&[
        "recover.after_read",
        "dispatch.before.confirm",
        "dispatch.after.confirm",
    ]),
    either("C15", Late, "dispatch.after.prepare")
        .again(&["recover.after_read", "recover.after_epoch"])
        .down(),
    aborts("C15", SagaRefused, "append.after.action_refused")
        .again(&["recover.after_read", "recover.after_read"]),
];

macro_rules! rows {
    ($(async fn $name:ident() = $row:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run(CASES, $row).await;
            }
        )*
    };
}

rows! {
    async fn c1_before_the_begin_is_durable_nothing_exists() = "C1";
    async fn c2_a_begin_whose_answer_was_lost_is_begun_once() = "C2";
    async fn c3_a_registration_whose_answer_was_lost_is_one_branch() = "C3";
    async fn c4_some_prepares_on_their_way_end_the_same_everywhere() = "C4";
    async fn c5_votes_without_a_durable_decision_commit_nothing() = "C5";
    async fn c6_a_decision_that_nobody_was_told_is_final_if_it_is_durable() = "C6";
    async fn c7_a_durable_commit_reaches_every_branch() = "C7";
    async fn c8_a_commit_that_reached_some_reaches_all() = "C8";
    async fn c9_what_a_branch_did_and_nobody_recorded_is_asked_again() = "C9";
    async fn c10_it_is_closed_once() = "C10";
    async fn c11_an_abort_that_reached_some_reaches_all() = "C11";
    async fn h7_locks_outlive_a_crash_and_are_given_back() = "H7";
    async fn c14_nothing_comes_back_from_the_archive() = "C14";
    async fn c15_the_third_owner_finishes() = "C15";
}
