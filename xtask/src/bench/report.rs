//! Medians, ratios and the table.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What a run shows in the table: heading, place in its JSON, decimals.
const COLUMNS: &[(&str, &[&str], usize)] = &[
    ("per second", &["per_second", "finished"], 0),
    ("p50 ms", &["latency_us", "decided", "p50"], 2),
    ("p99 ms", &["latency_us", "decided", "p99"], 2),
    ("CPU µs: load", &["cpu_us_per_transaction", "generator"], 0),
    ("participants", &["cpu_us_per_transaction", "participants"], 0),
    ("product", &["cpu_us_per_transaction", "coordinator"], 0),
    ("database", &["cpu_us_per_transaction", "database"], 0),
];

const DECIDED: &[&str] = &["per_second", "decided"];
const FINISHED: &[&str] = &["per_second", "finished"];
const P50: &[&str] = &["latency_us", "decided", "p50"];
const P99: &[&str] = &["latency_us", "decided", "p99"];

/// A goal: one median over another, or one median alone.
struct Goal {
    what: &'static str,
    of: (&'static str, &'static [&'static str]),
    over: Option<(&'static str, &'static [&'static str])>,
    /// In words: the table of issue and docs.
    to_reach: &'static str,
}

const GOALS: &[Goal] = &[
    Goal {
        what: "TCC on PostgreSQL ÷ on the memory log, decided/s",
        of: ("TCC, PostgreSQL", DECIDED),
        over: Some(("TCC, memory log", DECIDED)),
        to_reach: "≥ 0.8",
    },
    Goal {
        what: "TCC on SQLite ÷ on the memory log, decided/s",
        of: ("TCC, SQLite", DECIDED),
        over: Some(("TCC, memory log", DECIDED)),
        to_reach: "-",
    },
    Goal {
        what: "TCC on PostgreSQL ÷ single inserts, per second",
        of: ("TCC, PostgreSQL", DECIDED),
        over: Some(("pgbench", DECIDED)),
        to_reach: "≥ 1.0",
    },
    Goal {
        what: "two-step sagas on PostgreSQL ÷ dtmrs, finished/s",
        of: ("saga, PostgreSQL", FINISHED),
        over: Some(("saga, dtmrs", FINISHED)),
        to_reach: "≥ 10",
    },
    Goal {
        what: "two-step sagas on PostgreSQL ÷ DTM, finished/s",
        of: ("saga, PostgreSQL", FINISHED),
        over: Some(("saga, DTM", FINISHED)),
        to_reach: "≥ 10",
    },
    Goal {
        what: "p99 begin-to-decided at half rate ÷ p50 of a single insert",
        of: ("TCC, PostgreSQL, half rate", P99),
        over: Some(("pgbench, 1 client", P50)),
        to_reach: "≤ 8",
    },
    Goal {
        what: "one client: p50 begin-to-decided ÷ p50 of a single insert",
        of: ("TCC, PostgreSQL, 1 client", P50),
        over: Some(("pgbench, 1 client", P50)),
        to_reach: "≤ 3",
    },
    Goal {
        what: "answers that waited for a write, per committed TCC",
        of: ("TCC, PostgreSQL", &["per_transaction", "waited_writes_committed"]),
        over: None,
        to_reach: "= 1",
    },
    Goal {
        what: "answers that waited for a write, per aborted TCC",
        of: ("TCC, PostgreSQL, aborted", &["per_transaction", "waited_writes_aborted"]),
        over: None,
        to_reach: "= 0",
    },
    Goal {
        what: "log bytes per TCC",
        of: ("TCC, PostgreSQL", &["per_transaction", "log_bytes"]),
        over: None,
        to_reach: "≤ 500",
    },
    Goal {
        what: "history bytes per TCC (with the log's: ≤ 1,200)",
        of: ("TCC, PostgreSQL", &["per_transaction", "history_bytes"]),
        over: None,
        to_reach: "-",
    },
];

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    about: Value,
    /// In the order of a round.
    runs: Vec<(String, Vec<Value>)>,
}

impl Report {
    pub(super) fn new(about: Value) -> Self {
        Self { about, runs: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, result: Value) {
        match self.runs.iter_mut().find(|(known, _)| known == name) {
            Some((_, results)) => results.push(result),
            None => self.runs.push((name.to_owned(), vec![result])),
        }
    }

    /// A value of the last run of a kind.
    pub(super) fn last(&self, name: &str, path: &[&str]) -> Option<f64> {
        at(self.results(name).last()?, path)
    }

    fn results(&self, name: &str) -> &[Value] {
        self.runs.iter().find(|(known, _)| known == name).map_or(&[], |(_, results)| results)
    }

    fn median(&self, name: &str, path: &[&str]) -> Option<f64> {
        median(self.results(name).iter().map(|result| at(result, path)).collect::<Option<Vec<_>>>()?)
    }

    fn ratio(&self, goal: &Goal) -> Option<f64> {
        let of = self.median(goal.of.0, goal.of.1)?;
        match goal.over {
            None => Some(of),
            Some((name, path)) => {
                let over = self.median(name, path)?;
                (over > 0.0).then_some(of / over)
            }
        }
    }

    /// What the figures come from.
    pub(super) fn head(&self) -> String {
        let words = |part: &str| {
            let object = self.about[part].as_object();
            let pairs = object.into_iter().flatten().map(|(key, value)| match value {
                Value::String(text) => format!("{key} {text}"),
                other => format!("{key} {other}"),
            });
            pairs.collect::<Vec<_>>().join(", ")
        };
        format!("machine: {}\nPostgreSQL: {}", words("machine"), words("postgresql"))
    }

    /// The tables.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n| medians of {} |", self.head(), self.about["rounds"]);
        let mut rule = String::from("\n| --- |");
        // Writing to a string cannot fail.
        for (heading, _, _) in COLUMNS {
            let _ = write!(text, " {heading} |");
            rule.push_str(" ---: |");
        }
        text.push_str(&rule);
        for (name, _) in &self.runs {
            let _ = write!(text, "\n| {name} |");
            for (_, path, decimals) in COLUMNS {
                let _ =
                    write!(text, " {} |", shown(self.median(name, path).map(|v| scaled(path, v)), *decimals));
            }
        }
        text.push_str("\n\n| ratio of medians | reached | to reach |\n| --- | ---: | --- |");
        for goal in GOALS {
            let _ = write!(text, "\n| {} | {} | {} |", goal.what, shown(self.ratio(goal), 2), goal.to_reach);
        }
        text
    }

    /// All of it.
    pub(super) fn value(&self) -> Value {
        let runs: Map<String, Value> =
            self.runs.iter().map(|(name, results)| (name.clone(), json!(results))).collect();
        let goals: Vec<Value> = GOALS
            .iter()
            .map(|goal| json!({ "what": goal.what, "reached": self.ratio(goal), "to_reach": goal.to_reach }))
            .collect();
        json!({ "about": self.about, "goals": goals, "runs": runs })
    }
}

/// One run in one line.
pub(super) fn line(name: &str, result: &Value) -> String {
    let mut line = format!("{name:<28}");
    for (heading, path, decimals) in &COLUMNS[..3] {
        let _ =
            write!(line, "  {heading} {:>9}", shown(at(result, path).map(|v| scaled(path, v)), *decimals));
    }
    line
}

fn at(value: &Value, path: &[&str]) -> Option<f64> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_f64()
}

/// Latencies are told in milliseconds.
fn scaled(path: &[&str], value: f64) -> f64 {
    if path.first() == Some(&"latency_us") { value / 1_000.0 } else { value }
}

fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values.get(middle - 1)? + values.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_ratio_is_of_medians_and_none_without_both() {
        let mut report = Report::new(json!({ "rounds": 3 }));
        let run = |rate: f64| json!({ "per_second": { "decided": rate, "finished": rate } });
        for rate in [100.0, 5_000.0, 200.0] {
            report.add("TCC, PostgreSQL", run(rate));
        }
        let goal = &GOALS[2];
        assert_eq!(report.ratio(goal), None);
        for rate in [50.0, 100.0, 1.0] {
            report.add("pgbench", run(rate));
        }
        assert_eq!(report.ratio(goal), Some(4.0));
        assert_eq!(report.last("pgbench", DECIDED), Some(1.0));
        let text = report.text();
        assert!(text.contains("| TCC on PostgreSQL ÷ single inserts, per second | 4.00 | ≥ 1.0 |"), "{text}");
        // What was not measured has no figure.
        assert!(text.contains("÷ dtmrs, finished/s | - | ≥ 10 |"), "{text}");
        assert_eq!(report.value()["runs"]["pgbench"].as_array().map(Vec::len), Some(3));
    }
}
