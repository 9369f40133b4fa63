//! What was found, for people and for programs.

use serde_json::{Value, json};

use super::Mode;
use super::runner::{Outcome, Verdict};
use super::scenario::Guarantee;
use crate::cli::output::safe;

impl Guarantee {
    const ALL: [Self; 3] = [Self::Idempotent, Self::Fenced, Self::Compensates];

    fn name(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Fenced => "fenced",
            Self::Compensates => "compensates",
        }
    }

    /// What it is worth.
    fn earned(self) -> &'static str {
        match self {
            Self::Idempotent => "a repeated call does not act again.",
            Self::Fenced => "a call that comes late or out of order does not act.",
            Self::Compensates => "what was done is undone without a trace.",
        }
    }

    /// What its absence costs.
    fn missing(self) -> &'static str {
        match self {
            Self::Idempotent => {
                "answers get lost and calls are repeated: sooner or later somebody is charged twice, or a change is lost."
            }
            Self::Fenced => {
                "a call that was delayed on its way acts after its transaction is over: money is reserved or taken for \
                 an order that was cancelled, and nobody comes to give it back."
            }
            Self::Compensates => {
                "an aborted transaction leaves something behind: money stays taken for what was never delivered."
            }
        }
    }
}

/// All verdicts of a run.
#[derive(Debug)]
pub(super) struct Report {
    mode: Mode,
    is_observed: bool,
    verdicts: Vec<Verdict>,
}

impl Report {
    pub(super) fn new(mode: Mode, is_observed: bool, verdicts: Vec<Verdict>) -> Self {
        Self { mode, is_observed, verdicts }
    }

    /// Whether every guarantee of the mode is earned.
    pub(super) fn is_ok(&self) -> bool {
        !self.verdicts.iter().any(|verdict| matches!(verdict.outcome, Outcome::Failed(_)))
    }

    /// The mode's guarantees, and whether each is earned: none is without the plain sequence.
    fn guarantees(&self) -> impl Iterator<Item = (Guarantee, bool)> {
        Guarantee::ALL.into_iter().filter_map(|guarantee| {
            let mut of_it =
                self.verdicts.iter().filter(|verdict| verdict.guarantee == Some(guarantee)).peekable();
            of_it.peek()?;
            let failed = |verdict: &Verdict| matches!(verdict.outcome, Outcome::Failed(_));
            let is_basic_wrong =
                self.verdicts.iter().any(|verdict| verdict.guarantee.is_none() && failed(verdict));
            Some((guarantee, !is_basic_wrong && !of_it.any(failed)))
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for verdict in &self.verdicts {
            let (word, why) = match &verdict.outcome {
                Outcome::Passed => ("passed ", ""),
                Outcome::Failed(fault) => ("FAILED ", fault.as_str()),
                Outcome::NotRun(why) => ("not run", *why),
            };
            text.push_str(&format!("{word}  {}\n", verdict.name));
            if !why.is_empty() {
                text.push_str(&format!("           {}\n", safe(why)));
            }
            if matches!(verdict.outcome, Outcome::Failed(_)) {
                for step in &verdict.trail {
                    text.push_str(&format!("             {}\n", safe(step)));
                }
            }
        }
        text.push('\n');
        for (guarantee, is_earned) in self.guarantees() {
            let name = guarantee.name();
            if is_earned {
                let how = if self.is_observed { "yes" } else { "yes, by the answers" };
                text.push_str(&format!("{name}: {how}; {}\n", guarantee.earned()));
            } else {
                text.push_str(&format!("{name}: NO; {}\n", guarantee.missing()));
            }
        }
        if !self.is_observed {
            text.push_str("\nJudged by the answers alone. With --observe URL doubled and left-over effects are seen, too.\n");
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let scenarios: Vec<Value> = self
            .verdicts
            .iter()
            .map(|verdict| {
                let (word, why) = match &verdict.outcome {
                    Outcome::Passed => ("passed", None),
                    Outcome::Failed(fault) => ("failed", Some(fault.as_str())),
                    Outcome::NotRun(why) => ("not_run", Some(*why)),
                };
                json!({
                    "name": verdict.name,
                    "guarantee": verdict.guarantee.map(Guarantee::name),
                    "verdict": word,
                    "why": why,
                    "calls": verdict.trail,
                })
            })
            .collect();
        let guarantees: serde_json::Map<String, Value> = self
            .guarantees()
            .map(|(guarantee, is_earned)| {
                let meaning = if is_earned { guarantee.earned() } else { guarantee.missing() };
                (guarantee.name().to_owned(), json!({ "earned": is_earned, "meaning": meaning }))
            })
            .collect();
        json!({
            "ok": self.is_ok(),
            "mode": self.mode.name(),
            "observed": self.is_observed,
            "guarantees": guarantees,
            "scenarios": scenarios,
        })
    }
}
