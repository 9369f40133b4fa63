//! Outcomes in the tables' words.

use unanimity_core::{Answer, Effect, Event, Refusal, Timer, Transaction, Verdict};
use unanimity_types::AbortReason;

pub(super) fn verdict(verdict: &Verdict, after: Option<&Transaction>) -> String {
    let answer = match &verdict.answer {
        Ok(Answer::Status) => format!("status {}", after.expect("known by now").status()),
        Ok(Answer::Registered(id)) => format!("branch {id}"),
        Ok(Answer::Undecided) => "undecided".to_owned(),
        Err(Refusal::AlreadyDecided { status, reason }) => {
            // What it says is true.
            let after = after.expect("known");
            assert_eq!((*status, *reason), (after.status(), after.abort_reason()));
            format!("refused already_decided: {status}{}", because(*reason))
        }
        Err(refusal) => format!("refused {}", refusal.code()),
    };
    if verdict.events.is_empty() {
        return format!("- => {answer}");
    }
    let events: Vec<_> = verdict.events.iter().map(event).collect();
    format!("{} => {answer}", events.join(" "))
}

fn because(reason: Option<AbortReason>) -> String {
    reason.map(|reason| format!(" {reason}")).unwrap_or_default()
}

fn event(event: &Event) -> String {
    match event {
        Event::Begun { .. } => "Begun".to_owned(),
        Event::Presumed => "Presumed".to_owned(),
        Event::Registered { branch_id, key, .. } => format!("Registered({branch_id} {key})"),
        Event::CommitAsked { votes, .. } => {
            let votes: Vec<_> = votes.iter().map(ToString::to_string).collect();
            format!("CommitAsked({})", votes.join(" "))
        }
        Event::Decided { decision, reason, branches, by } => {
            let by = if by.is_some() { " by hand" } else { "" };
            format!("Decided({decision}{} over {branches}{by})", because(*reason))
        }
        Event::Dispatched { branch_id } => format!("Dispatched({branch_id})"),
        Event::AttemptFailed { branch_id, attempts, .. } => format!("AttemptFailed({branch_id} #{attempts})"),
        Event::Deferred { branch_id, .. } => format!("Deferred({branch_id})"),
        Event::BranchSettled { branch_id, .. } => format!("BranchSettled({branch_id})"),
        Event::BranchResolved { branch_id, resolve_as, .. } => {
            format!("BranchResolved({branch_id} {resolve_as})")
        }
        Event::Contradicted { branch_id, operation } => format!("Contradicted({branch_id} {operation})"),
        Event::AttentionRaised { code, .. } => format!("AttentionRaised({})", code.as_str()),
        Event::RetryRequested { .. } => "RetryRequested".to_owned(),
        Event::PlanAccepted { branches } => format!("PlanAccepted({branches})"),
        Event::Voted { branch_id, vote } => format!("Voted({branch_id} {vote})"),
        Event::PreparesAsked { .. } => "PreparesAsked".to_owned(),
        Event::Delegated { branch_id } => format!("Delegated({branch_id})"),
        Event::CheckBackAsked { branch_id } => format!("CheckBackAsked({branch_id})"),
        Event::ActionDone { branch_id, attempts, .. } => format!("ActionDone({branch_id} #{attempts})"),
        Event::ActionRefused { branch_id, attempts, .. } => format!("ActionRefused({branch_id} #{attempts})"),
        Event::Returned { branch_id } => format!("Returned({branch_id})"),
        Event::Parked { branch_id, attempts, .. } => format!("Parked({branch_id} #{attempts})"),
        Event::Finished => "Finished".to_owned(),
        Event::Snapshot(_) => "Snapshot".to_owned(),
    }
}

/// What is sent: `-> action(2 #1)`.
pub(super) fn dispatches(effects: &[Effect]) -> String {
    let sent: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Dispatch { branch_id, operation, attempt } => {
                Some(format!("{operation}({branch_id} #{attempt})"))
            }
            _ => None,
        })
        .collect();
    if sent.is_empty() { String::new() } else { format!(" -> {}", sent.join(" ")) }
}

/// The branches' statuses and what follows.
pub(super) fn applied(after: Option<&Transaction>, effects: &[Effect]) -> String {
    let after = after.expect("an event leaves something");
    let mut words = vec![after.status().to_string()];
    words.extend(after.branches.iter().map(|branch| branch.status.to_string()));
    let mut text = words.join(" ");
    for effect in effects {
        text.push_str(" + ");
        text.push_str(&match effect {
            Effect::Dispatch { branch_id, operation, attempt } => {
                format!("{operation}({branch_id} #{attempt})")
            }
            Effect::SetTimer { timer: Timer::Deadline, .. } => "timer(deadline)".to_owned(),
            Effect::SetTimer { timer: Timer::CommitWait, .. } => "timer(commit wait)".to_owned(),
            Effect::SetTimer { timer: Timer::Prepare, .. } => "timer(prepare)".to_owned(),
            Effect::SetTimer { timer: Timer::Retry(id), .. } => format!("timer(retry {id})"),
            Effect::Decided(decision) => format!("decided({decision})"),
            Effect::Finished => "finished".to_owned(),
        });
    }
    text
}
