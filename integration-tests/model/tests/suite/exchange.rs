//! One transaction, every order.

use unanimity_model::exchange::{Bug, Config, Exchange};
use unanimity_model::explore::{Report, explore, refute};

pub(crate) fn holds(name: &str, config: Config) -> Report {
    let model = Exchange::new(config);
    let report = explore(model.clone(), 1);
    println!("{name}: {report}, {} transactions", model.transactions_met());
    report.must_hold(name);
    report
}

fn refuted(bug: Bug, config: Config, rules: &[&str]) {
    let report = refute(Exchange::new(config.with(bug)));
    let found: Vec<&str> = report.broken.iter().map(|(rule, _)| &rule[..2]).collect();
    println!("{bug:?}: {found:?} after {report}");
    assert!(!found.is_empty(), "{bug:?} breaks nothing that the model sees: {report}");
    assert!(
        found.iter().any(|found| rules.contains(found)),
        "{bug:?} breaks {found:?}, not one of {rules:?}"
    );
}

#[test]
fn two_phase_commit_over_crash_and_takeover() {
    holds("2PC, 2 branches", Config::two_phase(2));
}

#[test]
fn two_phase_commit_with_branches_that_lose_their_work_or_changed_nothing() {
    holds("2PC, 2 branches, read-only", Config { read_only: true, held: 1, ..Config::two_phase(2) });
    holds(
        "2PC, 2 branches, losses",
        Config { losses: true, refusals: false, held: 1, ..Config::two_phase(2) },
    );
}

#[test]
fn h4_a_delegated_decision_over_crash_and_takeover() {
    let config =
        Config { one_phase: true, deaths: 1, takeovers: 2, attempts: 2, aborts: 1, ..Config::two_phase(1) };
    holds("2PC, one phase", config);
}

#[test]
fn tcc_with_late_tries_and_early_cancels() {
    holds("TCC, 2 branches", Config::tcc(2));
}

#[test]
fn tcc_that_is_asked_and_told_twice() {
    holds(
        "TCC, repeats",
        Config {
            commits: 2,
            aborts: 1,
            asks: 1,
            registrations: 2,
            held: 1,
            in_doubt: false,
            ..Config::tcc(1)
        },
    );
}

#[test]
fn c3_tcc_begun_without_a_call() {
    holds("TCC, ticketed", Config { asks: 1, ..Config::ticketed(2) });
}

#[test]
fn a_saga_of_three_steps() {
    holds("saga, 3 steps", Config { attempts: 1, ..Config::saga(3) });
    holds("saga, pivot", Config { pivot: Some(1), ..Config::saga(2) });
}

#[test]
fn h3_a_saga_of_steps_without_a_fence() {
    holds("saga, unfenced", Config { held: 1, attempts: 1, ..Config::unfenced_saga(2) });
}

#[test]
fn every_broken_rule_is_found() {
    let tcc = Config::tcc(2);
    let told = Config { commits: 2, asks: 1, ..Config::tcc(2) };
    let saga = Config::saga(2);
    let unfenced = Config { held: 1, ..Config::unfenced_saga(1) };
    let delegated = Config { one_phase: true, ..Config::two_phase(1) };
    refuted(Bug::ActBeforeDurable, tcc.clone(), &["I1", "I2"]);
    refuted(Bug::ActBeforeDurable, Config::two_phase(2), &["I1", "I2"]);
    refuted(Bug::AnswerBeforeDurable, tcc.clone(), &["I3", "I4", "I8"]);
    refuted(Bug::DuplicateFromMemory, told.clone(), &["I3", "I4"]);
    refuted(Bug::CancelBeforeAbortBlock, tcc.clone(), &["I1", "I6"]);
    refuted(Bug::UnknownWithoutAppend, told, &["I3", "I4"]);
    refuted(Bug::TakenSeqIgnored, tcc.clone(), &["I9"]);
    refuted(Bug::TakeoverKeepsTicketed, Config::ticketed(2), &["I8", "I1", "I2"]);
    refuted(Bug::NoTombstone, Config { aborts: 1, ..Config::tcc(2) }, &["I6"]);
    refuted(Bug::CommitOnTimeout, Config { timeout: 2, ..Config::tcc(2) }, &["I2"]);
    refuted(Bug::RegisterAfterDecision, tcc.clone(), &["I8"]);
    refuted(Bug::DroppedOnRetryLimit, Config { attempts: 2, ..Config::tcc(2) }, &["I5"]);
    refuted(Bug::VotesNotCompared, tcc, &["I2"]);
    refuted(Bug::DelegationPresumedAborted, delegated, &["I1", "I2"]);
    refuted(Bug::StepBeforeDurable, saga.clone(), &["I7"]);
    refuted(Bug::CompensationOrder, Config { sites: 3, ..saga }, &["I7"]);
    refuted(Bug::RefusalAlwaysClean, unfenced.clone(), &["I7"]);
    refuted(Bug::NoHold, unfenced.clone(), &["I7"]);
    refuted(Bug::LeaseIgnored, unfenced, &["I7"]);
}
