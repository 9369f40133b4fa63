//! Runs scenarios and judges the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::value::RawValue;
use unanimity_types::{Operation, Vote, Xid};
use uuid::Uuid;

use super::caller::{Answer, Branch, Caller, Meaning};
use super::observer::Observer;
use super::scenario::{Guarantee, Scenario, Step};

/// Pauses before an unknown answer is asked for again: long enough for a lock to be freed, and bounded, because a
/// participant that never answers shall not hold up the report.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// Calls at once. A coordinator sends one at a time; two owners, a proxy that repeats and a relay make a few.
const AT_ONCE: usize = 8;
/// When it is hung up on: before the request is out, and in the middle of the work. What the moments hit does not matter
/// to the verdict. Behind them comes one that waits for the answer to begin, when the work is surely done.
const CUTS: [Duration; 4] = [
    Duration::from_micros(300),
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(30),
];

/// How a scenario ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// What the participant did wrong.
    Failed(String),
    /// Why it was not run.
    NotRun(&'static str),
}

/// A scenario and how it ended.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) guarantee: Option<Guarantee>,
    pub(super) outcome: Outcome,
    /// What was called and answered.
    pub(super) trail: Vec<String>,
}

/// Plays the coordinator.
#[derive(Debug)]
pub(super) struct Runner {
    caller: Caller,
    observer: Option<Observer>,
    /// How the observed number changes with one effect, once that is known.
    unit: Option<i128>,
}

impl Runner {
    pub(super) fn new(caller: Caller, observer: Option<Observer>) -> Self {
        Self { caller, observer, unit: None }
    }

    /// Runs them one after the other, so that what is observed belongs to one of them.
    pub(super) async fn run(mut self, scenarios: Vec<Scenario>) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(scenarios.len());
        let mut is_basic_wrong = false;
        for scenario in scenarios {
            let mut trail = Vec::new();
            let outcome = if is_basic_wrong {
                Outcome::NotRun("not even the plain sequence works")
            } else if scenario.needs_observer && self.observer.is_none() {
                Outcome::NotRun("the answers alone do not show it: needs --observe")
            } else {
                match self.scenario(&scenario, &mut trail).await {
                    Ok(()) => Outcome::Passed,
                    Err(fault) => Outcome::Failed(fault),
                }
            };
            is_basic_wrong |= scenario.guarantee.is_none() && matches!(outcome, Outcome::Failed(_));
            verdicts.push(Verdict { name: scenario.name, guarantee: scenario.guarantee, outcome, trail });
        }
        verdicts
    }

    async fn scenario(&mut self, scenario: &Scenario, trail: &mut Vec<String>) -> Result<(), String> {
        let before = self.look().await?;
        let mut run = Run::new(&self.caller, trail);
        let mut effects = scenario.effects;
        for step in &scenario.steps {
            effects += run.step(*step).await?;
        }
        let Some((before, after)) = before.zip(self.look().await?) else { return Ok(()) };
        let change = after - before;
        match self.unit {
            None if change == 0 => {
                Err("the observed number did not change: it does not count this effect".to_owned())
            }
            None => {
                self.unit = Some(change);
                Ok(())
            }
            Some(unit) if change == effects * unit => Ok(()),
            Some(unit) => Err(format!(
                "the observed number changed by {}, and must change by {}",
                decimal(change),
                decimal(effects * unit)
            )),
        }
    }

    async fn look(&self) -> Result<Option<i128>, String> {
        match &self.observer {
            None => Ok(None),
            Some(observer) => observer.look().await.map(Some).map_err(|error| format!("{error:#}")),
        }
    }
}

/// One scenario on its way.
struct Run<'a> {
    caller: &'a Caller,
    trail: &'a mut Vec<String>,
    xids: [Xid; 2],
    /// Which of the two xids and of two keys is used now.
    at: (usize, usize),
    /// The last answer of each operation to each branch.
    answers: BTreeMap<(usize, usize, &'static str), Answer>,
    /// How often each operation was called.
    attempts: BTreeMap<&'static str, u32>,
}

impl<'a> Run<'a> {
    fn new(caller: &'a Caller, trail: &'a mut Vec<String>) -> Self {
        Self {
            caller,
            trail,
            xids: [Xid::new(Uuid::now_v7()), Xid::new(Uuid::now_v7())],
            at: (0, 0),
            answers: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    /// One step; tells how many effects it had beyond those that the scenario names.
    async fn step(&mut self, step: Step) -> Result<i128, String> {
        match step {
            Step::Done(operation) => {
                let answer = self.answered(operation).await;
                self.must_be_done(operation, &answer)?;
            }
            Step::Again(operation) => {
                let last = self.last(operation).cloned();
                let answer = self.answered(operation).await;
                if let Some(last) = last {
                    same(operation, &last, &answer)?;
                }
            }
            Step::Refused(operation) => {
                let answer = self.answered(operation).await;
                if !is_refusal(operation, &answer) {
                    return Err(format!("{operation} must be refused now{}", got(operation, &answer)));
                }
            }
            Step::Harmless(operation) => {
                let answer = self.answered(operation).await;
                if answer.meaning != Meaning::Done && !is_refusal(operation, &answer) {
                    return Err(format!(
                        "{operation} must be refused, or answered as the first time{}",
                        got(operation, &answer)
                    ));
                }
            }
            Step::NotDone { operation, may_refuse } => self.must_not_be_done(operation, may_refuse).await?,
            Step::HangUp(operation) => self.hang_up(operation).await,
            Step::AtOnce(operation) => self.at_once(operation).await?,
            Step::Race(one, other) => self.race(one, other).await,
            Step::Agree => return self.agree().await,
            Step::OtherXid => self.at.0 = 1 - self.at.0,
            Step::OtherKey => self.at.1 = 1 - self.at.1,
        }
        Ok(0)
    }

    /// Calls until the answer is more than "unknown" or "not yet".
    async fn answered(&mut self, operation: Operation) -> Answer {
        let mut answer = self.call(operation).await;
        for pause in PAUSES {
            if !matches!(answer.meaning, Meaning::Unknown | Meaning::NotYet) {
                break;
            }
            tokio::time::sleep(pause).await;
            answer = self.call(operation).await;
        }
        let (xid, key) = self.at;
        self.answers.insert((xid, key, operation.as_str()), answer.clone());
        answer
    }

    async fn call(&mut self, operation: Operation) -> Answer {
        let attempt = self.attempt(operation);
        let result = self.result(operation);
        let answer = self.caller.call(operation, &self.branch(), attempt, result.as_deref()).await;
        self.trail.push(format!("{operation} → {}", answer.shown()));
        answer
    }

    fn must_be_done(&self, operation: Operation, answer: &Answer) -> Result<(), String> {
        if answer.meaning != Meaning::Done {
            return Err(format!("{operation} must be done{}", got(operation, answer)));
        }
        if operation == Operation::Action && answer.is_too_long() {
            return Err("the action's result is longer than 64 KiB, which counts as a failure".to_owned());
        }
        if operation == Operation::Prepare && answer.vote() == Some(Vote::ReadOnly) {
            return Err("prepare voted read_only: the kit needs a payload that changes something".to_owned());
        }
        Ok(())
    }

    async fn must_not_be_done(&mut self, operation: Operation, may_refuse: bool) -> Result<(), String> {
        let answer = self.call(operation).await;
        match answer.meaning {
            Meaning::NotYet | Meaning::Unknown => Ok(()),
            Meaning::Refused if may_refuse => Ok(()),
            Meaning::Done => Err(format!("{operation} came too early and answered that it is done")),
            Meaning::Refused | Meaning::Unusable => Err(format!(
                "{operation} came too early and must be answered \"not yet\" (425){}",
                got(operation, &answer)
            )),
        }
    }

    async fn hang_up(&mut self, operation: Operation) {
        let (branch, result) = (self.branch(), self.result(operation));
        for wait in CUTS.map(Some).into_iter().chain([None]) {
            let attempt = self.attempt(operation);
            self.caller.hang_up(operation, &branch, attempt, result.as_deref(), wait).await;
        }
        self.trail.push(format!("{operation} → {} times hung up", CUTS.len() + 1));
    }

    async fn at_once(&mut self, operation: Operation) -> Result<(), String> {
        let mut first: Option<Answer> = None;
        for answer in self.burst(&[operation; AT_ONCE]).await {
            // Whoever lost a race for a lock may say "unknown" and asks again.
            let is_open = matches!(answer.meaning, Meaning::Unknown | Meaning::NotYet);
            let answer = if is_open { self.answered(operation).await } else { answer };
            match &first {
                None if operation != Operation::CheckBack => self.must_be_done(operation, &answer)?,
                None => {}
                Some(first) => same(operation, first, &answer)?,
            }
            first.get_or_insert(answer);
        }
        self.step_done_again(operation).await
    }

    /// After a burst the operation is over, and says so.
    async fn step_done_again(&mut self, operation: Operation) -> Result<(), String> {
        let answer = self.answered(operation).await;
        self.must_be_done(operation, &answer)
    }

    async fn race(&mut self, one: Operation, other: Operation) {
        let mut operations = [one; AT_ONCE];
        operations.iter_mut().skip(1).step_by(2).for_each(|operation| *operation = other);
        self.burst(&operations).await;
    }

    async fn agree(&mut self) -> Result<i128, String> {
        let mut operations = [Operation::CheckBack; AT_ONCE];
        operations[AT_ONCE / 2] = Operation::Try;
        let answers = self.burst(&operations).await;
        let was_denied = operations.iter().zip(&answers).any(|(operation, answer)| {
            *operation == Operation::CheckBack && answer.meaning == Meaning::Refused
        });
        // Nothing is said before the transaction has ended one way or the other.
        let work = self.answered(Operation::Try).await;
        let asked = self.answered(Operation::CheckBack).await;
        match (work.meaning, asked.meaning) {
            (Meaning::Done, Meaning::Done) if was_denied => {
                Err("a check_back was refused, and the local transaction committed after it".to_owned())
            }
            (Meaning::Done, Meaning::Done) => Ok(1),
            (_, Meaning::Refused) if is_refusal(Operation::Try, &work) => Ok(0),
            _ => Err(format!(
                "the local transaction answered {}, and check_back {}: they contradict each other",
                work.shown(),
                asked.shown()
            )),
        }
    }

    /// Calls all of them at once, in no order, and tells the answers.
    async fn burst(&mut self, operations: &[Operation]) -> Vec<Answer> {
        let (caller, branch) = (self.caller, self.branch());
        let calls: Vec<_> = operations
            .iter()
            .map(|operation| (*operation, self.attempt(*operation), self.result(*operation)))
            .collect();
        let answers = join_all(calls.iter().map(async |(operation, attempt, result)| {
            caller.call(*operation, &branch, *attempt, result.as_deref()).await
        }))
        .await;
        let shown: Vec<_> = operations
            .iter()
            .zip(&answers)
            .map(|(operation, answer)| format!("{operation} → {}", answer.shown()))
            .collect();
        self.trail.push(format!("at once: {}", shown.join(", ")));
        answers
    }

    fn branch(&self) -> Branch {
        Branch { xid: self.xids[self.at.0], key: self.caller.key(self.at.1) }
    }

    fn attempt(&mut self, operation: Operation) -> u32 {
        let attempts = self.attempts.entry(operation.as_str()).or_insert(0);
        *attempts += 1;
        *attempts
    }

    fn last(&self, operation: Operation) -> Option<&Answer> {
        self.answers.get(&(self.at.0, self.at.1, operation.as_str()))
    }

    /// A compensation is told what its action answered.
    fn result(&self, operation: Operation) -> Option<Box<RawValue>> {
        if operation != Operation::Compensate {
            return None;
        }
        self.last(Operation::Action)?.json()
    }
}

/// Whether the operation was refused for good. The application's own call may refuse in its own words.
fn is_refusal(operation: Operation, answer: &Answer) -> bool {
    answer.meaning == Meaning::Refused || (operation == Operation::Try && answer.meaning == Meaning::Unusable)
}

/// Answers to the same question must say the same; an action's result is a part of what it says.
fn same(operation: Operation, first: &Answer, second: &Answer) -> Result<(), String> {
    let is_same =
        first.meaning == second.meaning && (operation != Operation::Action || first.body() == second.body());
    if is_same {
        return Ok(());
    }
    Err(format!("{operation} was answered {} first and {} when repeated", first.shown(), second.shown()))
}

fn got(operation: Operation, answer: &Answer) -> String {
    let hint = match answer.meaning {
        Meaning::NotYet | Meaning::Unknown => ": the coordinator would ask for ever",
        Meaning::Unusable if operation != Operation::Try => {
            ": to the coordinator the address looks wrong; use 409 to refuse"
        }
        Meaning::Done | Meaning::Refused | Meaning::Unusable => "",
    };
    format!(", and was answered {}{hint}", answer.shown())
}

/// A number in units of 10^-9 for people.
fn decimal(number: i128) -> String {
    let (sign, number) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
    let text = format!("{sign}{}.{:09}", number / 1_000_000_000, number % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_they_were_read() {
        assert_eq!(decimal(7_000_000_000), "7");
        assert_eq!(decimal(-100_000_000), "-0.1");
        assert_eq!(decimal(10_000_000_001), "10.000000001");
    }
}
