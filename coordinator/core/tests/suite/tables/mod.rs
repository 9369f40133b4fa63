//! Every pair of state and command, and every pair of state and event, with what it must give.
//!
//! The tables are `commands.txt` and `events.txt` beside this file: a state, then what each command
//! gives in it, those with the same outcome on one line. A missing cell fails the test, and so does one
//! too many. `UNANIMITY_PRINT_TABLES=1` prints what the code gives, to compare by eye.

mod modes;
mod print;
mod states;

pub(crate) use self::modes::{columns, starts};
pub(crate) use self::states::commands;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use unanimity_core::{Command, Event, apply, decide};

use self::states::{events, states};
use crate::fixture::{context, xid};

/// Names for columns that mostly go together; the widest first.
const TOGETHER: &[(&str, &str)] = &[
    (
        "any result of 1",
        "1 tried, try of 1 unknown, try of 1 refused, try of 1 not yet, try of 1 unusable, try of 1 not sent, \
         1 confirmed, confirm of 1 unknown, confirm of 1 refused, confirm of 1 not yet, confirm of 1 unusable, \
         confirm of 1 not sent, 1 cancelled, cancel of 1 unknown, cancel of 1 refused, cancel of 1 not yet, \
         cancel of 1 unusable, cancel of 1 not sent",
    ),
    (
        "any result of 1's try",
        "1 tried, try of 1 unknown, try of 1 refused, try of 1 not yet, try of 1 unusable, try of 1 not sent",
    ),
    (
        "any failure of 1's confirm",
        "confirm of 1 unknown, confirm of 1 refused, confirm of 1 not yet, confirm of 1 unusable, confirm of 1 not sent",
    ),
    (
        "any failure of 1's cancel",
        "cancel of 1 unknown, cancel of 1 refused, cancel of 1 not yet, cancel of 1 unusable, cancel of 1 not sent",
    ),
    ("any registration", "register k1, register k1 otherwise, register k3, register k9"),
    ("any commit", "commit, commit none, commit k1, commit k1 k2, commit k1 k2 k3, commit k1 k2 k9"),
    ("any timer", "deadline, commit wait over, prepares over, back-off of 1 over, back-off of 99 over"),
    ("any vote", "vote k1 prepared, vote k9 refused"),
    ("any wake", "wake 1 now, wake 1 in an hour, wake 99"),
];

/// An outcome and the columns that have it.
type Group = (String, Vec<String>);

type Table = BTreeMap<(String, String), String>;

/// Reads a table: states at the line's beginning, under each "names: outcome".
fn read(text: &str) -> Table {
    let mut table = Table::new();
    let mut state = "";
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let Some(cells) = line.strip_prefix("    ") else {
            state = line.trim();
            continue;
        };
        let (names, outcome) = cells.split_once(": ").expect("names: outcome");
        let names = names.split(", ").flat_map(|name| {
            let together = TOGETHER.iter().find(|(short, _)| *short == name);
            together.map_or(name, |(_, long)| long).split(", ")
        });
        for name in names {
            let cell = (state.to_owned(), name.trim().to_owned());
            let twice = table.insert(cell, outcome.trim().to_owned());
            assert!(twice.is_none(), "{state} / {name} stands twice in the table");
        }
    }
    table
}

/// The same form as [`read`] takes.
fn write(order: &[(String, String)], table: &Table) -> String {
    let mut text = String::new();
    let mut rows: Vec<(String, Vec<Group>)> = Vec::new();
    for (state, name) in order {
        if rows.last().is_none_or(|(last, _)| last != state) {
            rows.push((state.clone(), Vec::new()));
        }
        let outcome = &table[&(state.clone(), name.clone())];
        let groups = &mut rows.last_mut().expect("pushed").1;
        match groups.iter_mut().find(|(known, _)| known == outcome) {
            Some((_, names)) => names.push(name.clone()),
            None => groups.push((outcome.clone(), vec![name.clone()])),
        }
    }
    for (state, groups) in rows {
        let _ = writeln!(text, "\n{state}");
        for (outcome, names) in groups {
            let names = format!(", {},", names.join(", "));
            let names = TOGETHER.iter().fold(names, |names, (short, long)| {
                names.replace(&format!(", {long},"), &format!(", {short},"))
            });
            let names = names.trim_matches([' ', ',']);
            let _ = writeln!(text, "    {names}: {outcome}");
        }
    }
    text
}

fn compare(order: &[(String, String)], actual: &Table, text: &str) {
    if std::env::var_os("UNANIMITY_PRINT_TABLES").is_some() {
        println!("{}", write(order, actual));
        return;
    }
    let expected = read(text);
    let mut wrong = String::new();
    for cell in order {
        let (state, name) = cell;
        match expected.get(cell) {
            None => {
                let _ = writeln!(wrong, "missing: {state} / {name}, gives {}", actual[cell]);
            }
            Some(outcome) if *outcome != actual[cell] => {
                let gives = &actual[cell];
                let _ = writeln!(wrong, "{state} / {name}\n  must give {outcome}\n      gives {gives}");
            }
            Some(_) => {}
        }
    }
    for (state, name) in expected.keys().filter(|cell| !actual.contains_key(*cell)) {
        let _ = writeln!(wrong, "no such pair: {state} / {name}");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Numbers the kinds: a new variant does not compile until it has a place here, and then the test fails
/// until there is one in the table.
const fn command_kind(command: &Command) -> usize {
    match command {
        Command::Begin(_) => 0,
        Command::Register(_) => 1,
        Command::Commit { .. } => 2,
        Command::Abort { .. } => 3,
        Command::Inquire => 4,
        Command::Timer(_) => 5,
        Command::Result { .. } => 6,
        Command::Wake { .. } => 7,
        Command::Retry { .. } => 8,
        Command::Resolve { .. } => 9,
        Command::Vote { .. } => 10,
    }
}
const COMMAND_KINDS: usize = 11;

pub(crate) const fn event_kind(event: &Event) -> usize {
    match event {
        Event::Begun { .. } => 0,
        Event::Presumed => 1,
        Event::Registered { .. } => 2,
        Event::CommitAsked { .. } => 3,
        Event::Decided { .. } => 4,
        Event::Dispatched { .. } => 5,
        Event::AttemptFailed { .. } => 6,
        Event::Deferred { .. } => 7,
        Event::BranchSettled { .. } => 8,
        Event::BranchResolved { .. } => 9,
        Event::Contradicted { .. } => 10,
        Event::AttentionRaised { .. } => 11,
        Event::RetryRequested { .. } => 12,
        Event::Finished => 13,
        Event::Snapshot(_) => 14,
        Event::PlanAccepted { .. } => 15,
        Event::Voted { .. } => 16,
        Event::PreparesAsked { .. } => 17,
        Event::Delegated { .. } => 18,
        Event::CheckBackAsked { .. } => 19,
        Event::ActionDone { .. } => 20,
        Event::ActionRefused { .. } => 21,
        Event::Returned { .. } => 22,
        Event::Parked { .. } => 23,
    }
}
pub(crate) const EVENT_KINDS: usize = 24;
/// Their names, by those numbers.
pub(crate) const EVENT_NAMES: [&str; EVENT_KINDS] = [
    "Begun",
    "Presumed",
    "Registered",
    "CommitAsked",
    "Decided",
    "Dispatched",
    "AttemptFailed",
    "Deferred",
    "BranchSettled",
    "BranchResolved",
    "Contradicted",
    "AttentionRaised",
    "RetryRequested",
    "Finished",
    "Snapshot",
    "PlanAccepted",
    "Voted",
    "PreparesAsked",
    "Delegated",
    "CheckBackAsked",
    "ActionDone",
    "ActionRefused",
    "Returned",
    "Parked",
];

fn all_kinds(kinds: impl Iterator<Item = usize>, count: usize) {
    let mut seen = vec![false; count];
    kinds.for_each(|kind| seen[kind] = true);
    assert!(seen.iter().all(|seen| *seen), "a variant is in no column: {seen:?}");
}

#[test]
fn every_command_in_every_state() {
    let mut order = Vec::new();
    let mut actual = Table::new();
    for (state_name, driven) in states() {
        let commands = commands(&driven);
        all_kinds(commands.iter().map(|(_, command)| command_kind(command)), COMMAND_KINDS);
        for (name, command) in commands {
            let verdict = decide(driven.state.as_ref(), command, context(driven.now));
            let mut state = driven.state.clone();
            let mut effects = Vec::new();
            for event in &verdict.events {
                apply(&mut state, xid(), event.clone(), driven.now, &mut effects)
                    .expect("what was decided can be applied");
            }
            let cell = (state_name.to_owned(), name.to_owned());
            actual.insert(cell.clone(), print::verdict(&verdict, state.as_ref()));
            order.push(cell);
        }
    }
    compare(&order, &actual, include_str!("commands.txt"));
}

#[test]
fn every_event_in_every_state() {
    let mut order = Vec::new();
    let mut actual = Table::new();
    for (state_name, driven) in states() {
        let events = events(&driven);
        all_kinds(events.iter().map(|(_, event)| event_kind(event)), EVENT_KINDS);
        for (name, event) in events {
            let begins = event.is_beginning();
            let mut state = driven.state.clone();
            let mut effects = Vec::new();
            let outcome = match apply(&mut state, xid(), event, driven.now, &mut effects) {
                Ok(()) => print::applied(state.as_ref(), &effects),
                Err(illegal) => {
                    assert_eq!(
                        state, driven.state,
                        "{state_name} / {name}: illegal, so the state is as before"
                    );
                    assert_eq!(effects, [], "{state_name} / {name}: illegal, so nothing follows");
                    format!("illegal: {}", illegal.what)
                }
            };
            if driven.state.is_none() && name != "Snapshot of another" {
                assert_eq!(begins, state.is_some(), "{name}: what begins is what may come first");
            }
            let cell = (state_name.to_owned(), name.to_owned());
            actual.insert(cell.clone(), outcome);
            order.push(cell);
        }
    }
    compare(&order, &actual, include_str!("events.txt"));
}
