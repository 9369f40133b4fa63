//! Each planted fault is found: the guarantee that it breaks is missing, and the scenario that shows it has failed.

use crate::command::check;
use crate::toy::{Fault, Toy};

/// Plants `fault`, and expects that `guarantee` is missing because of `scenario`.
async fn found(mode: &str, fault: Fault, guarantee: &str, scenario: &str) {
    let said = check(&Toy::start(fault).await, mode, true).await;
    assert_eq!(said.code, Some(1), "{mode} {fault:?}: {said:#?}");
    assert!(!said.has_earned(guarantee), "{mode} {fault:?}: {said:#?}");
    assert_eq!(said.verdict(scenario), "failed", "{mode} {fault:?}: {said:#?}");
}

#[tokio::test]
async fn k1_repetitions_that_act_again() {
    for (mode, fault, scenario) in [
        ("tcc", Fault::BeginsAgain, "try_twice"),
        ("tcc", Fault::FinishesAgain, "confirm_twice"),
        ("tcc", Fault::UndoesAgain, "cancel_twice"),
        ("saga", Fault::BeginsAgain, "action_answer_dropped"),
        ("saga", Fault::UndoesAgain, "compensate_at_once"),
        ("two_phase", Fault::BeginsAgain, "prepare_at_once"),
        ("two_phase", Fault::FinishesAgain, "commit_answer_dropped"),
        ("message", Fault::BeginsAgain, "deliver_twice"),
    ] {
        found(mode, fault, "idempotent", scenario).await;
    }
}

#[tokio::test]
async fn repetitions_that_are_answered_otherwise() {
    found("tcc", Fault::RefusesRepetition, "idempotent", "confirm_twice").await;
    found("message", Fault::RefusesRepetition, "idempotent", "deliver_answer_dropped").await;
    found("saga", Fault::NewResult, "idempotent", "action_twice").await;
}

#[tokio::test]
async fn h8_branches_that_are_taken_for_one() {
    for mode in ["tcc", "saga", "two_phase", "message"] {
        found(mode, Fault::ForgetsKey, "idempotent", "another_key_in_the_same_transaction").await;
    }
    // A key that stands for all transactions meets the basic one's rest in every scenario.
    let said = check(&Toy::start(Fault::ForgetsXid).await, "message", true).await;
    assert!(!said.has_earned("idempotent"), "{said:#?}");
    found("sender", Fault::ForgetsKey, "idempotent", "another_key_in_the_same_transaction").await;
}

#[tokio::test]
async fn k4_calls_at_once_and_calls_cut_off() {
    found("saga", Fault::ChecksThenActs, "idempotent", "action_at_once").await;
    found("message", Fault::ChecksThenActs, "idempotent", "deliver_at_once").await;
    found("message", Fault::FenceAfterEffect, "idempotent", "deliver_answer_dropped").await;
}

#[tokio::test]
async fn k2_undo_before_begin() {
    for (mode, scenario) in [
        ("tcc", "cancel_before_try"),
        ("saga", "compensate_before_action"),
        ("two_phase", "rollback_before_prepare"),
    ] {
        found(mode, Fault::RefusesUnknownUndo, "fenced", scenario).await;
        found(mode, Fault::NoTombstone, "fenced", scenario).await;
    }
}

#[tokio::test]
async fn finish_before_begin() {
    found("tcc", Fault::FinishesNothing, "fenced", "confirm_before_try").await;
    found("tcc", Fault::RefusesEarlyFinish, "fenced", "confirm_before_try").await;
    found("two_phase", Fault::FinishesNothing, "fenced", "commit_before_prepare").await;
}

#[tokio::test]
async fn the_opposite_after_the_end() {
    found("tcc", Fault::UndoesFinished, "fenced", "cancel_after_confirm").await;
    found("two_phase", Fault::UndoesFinished, "fenced", "rollback_after_commit").await;
    found("tcc", Fault::FinishesUndone, "fenced", "confirm_after_cancel").await;
    found("two_phase", Fault::FinishesUndone, "fenced", "commit_after_rollback").await;
}

#[tokio::test]
async fn what_undo_leaves_behind() {
    for (mode, scenario) in [
        ("tcc", "cancel_after_try"),
        ("saga", "compensate_after_action"),
        ("two_phase", "rollback_after_prepare"),
    ] {
        found(mode, Fault::UndoKeeps, "compensates", scenario).await;
        found(mode, Fault::UndoKeepsHalf, "compensates", scenario).await;
    }
}

#[tokio::test]
async fn m11_a_read_only_vote_with_an_effect() {
    found("two_phase", Fault::LiesReadOnly, "idempotent", "once").await;
}

#[tokio::test]
async fn k6_a_late_delivery() {
    found("message", Fault::RemembersLast, "fenced", "deliver_late").await;
}

#[tokio::test]
async fn h5_senders_whose_no_is_none() {
    let before = "check_back_before_the_local_transaction";
    found("sender", Fault::NoTombstone, "fenced", before).await;
    found("sender", Fault::AlwaysSaysYes, "fenced", before).await;
    found("sender", Fault::NeverSaysNo, "fenced", before).await;
}

#[tokio::test]
async fn a_fault_takes_only_what_it_breaks() {
    let said = check(&Toy::start(Fault::FinishesAgain).await, "tcc", true).await;
    assert!(said.has_earned("fenced") && said.has_earned("compensates"), "{said:#?}");
    let said = check(&Toy::start(Fault::NoTombstone).await, "saga", true).await;
    assert!(said.has_earned("idempotent"), "{said:#?}");
    let said = check(&Toy::start(Fault::FinishesUndone).await, "two_phase", true).await;
    assert!(said.has_earned("idempotent") && said.has_earned("compensates"), "{said:#?}");
}
