//! A snapshot stands for the events before it: anywhere in a history, live and in recovery.

use unanimity_core::{Command, Effect, Event, apply, pending};
use unanimity_types::{Mode, Operation, Timestamp};

use crate::fixture::{Driven, context, replay, xid};
use crate::model::Rng;
use crate::tables::{columns, commands, starts};

const HISTORIES: u64 = 1_000;
const STEPS: u32 = 40;

fn random_step(rng: &mut Rng, driven: &Driven) -> (Timestamp, Command) {
    let wait = std::time::Duration::from_millis(*rng.pick(&[0, 0, 1, 100, 400, 1_000, 20_000]));
    let mode = driven.state.as_ref().and_then(|transaction| transaction.mode);
    if mode == Some(Mode::Tcc) && rng.chance(80) {
        let mut all = commands(driven);
        return (driven.now.after(wait), all.swap_remove(rng.index(all.len())).1);
    }
    // Mostly what can be answered: about a branch, what it is asked for.
    let n = 1 + u32::try_from(rng.below(4)).expect("small");
    let operation = *rng.pick(Operation::ALL);
    let mut all = columns(driven, n, &[operation]);
    (driven.now.after(wait), all.swap_remove(rng.index(all.len())).1)
}

fn random_history(seed: u64) -> (Rng, Driven) {
    let mut rng = Rng::new(seed);
    let mut all = starts();
    let place = rng.index(all.len() * 3 / 2);
    if place < all.len() {
        return (rng, all.swap_remove(place));
    }
    let branches = u32::try_from(rng.below(4)).expect("small");
    (rng, Driven::begun(branches))
}

#[test]
fn a_snapshot_in_the_log_changes_nothing_afterwards() {
    let mut replaced = 0;
    for seed in 0..HISTORIES {
        let (mut rng, mut driven) = random_history(seed);
        for _ in 0..STEPS {
            let (now, command) = random_step(&mut rng, &driven);
            driven.now = now;
            driven.run(command);
        }
        let whole = replay(xid(), &driven.events);
        for cut in 1..=driven.events.len() {
            let (before, after) = driven.events.split_at(cut);
            let at = before.last().expect("at least one").0;
            let snapshot = replay(xid(), before).expect("begun").durable();
            let event = (at, Event::Snapshot(Box::new(snapshot)));
            // Cleaned: nothing is left before it. And not cleaned yet: all of it is.
            let cleaned = replay(xid(), std::iter::once(&event).chain(after));
            let uncleaned = replay(xid(), before.iter().chain(std::iter::once(&event)).chain(after));
            let of = |mut state: Option<unanimity_core::Transaction>| {
                let owed = state.as_mut().map(|transaction| pending(transaction, context(driven.now)));
                // What an earlier owner may have done is told by `pending` for whom it still matters.
                (state.map(|transaction| transaction.durable()), owed)
            };
            assert_eq!(of(cleaned), of(whole.clone()), "seed {seed}, cut at {cut}");
            assert_eq!(of(uncleaned), of(whole.clone()), "seed {seed}, cut at {cut}");
            replaced += 1;
        }
    }
    assert!(replaced > 5 * HISTORIES, "{replaced} cuts");
}

#[test]
fn a_snapshot_taken_live_changes_nothing_afterwards() {
    let mut waiting = 0;
    for seed in 0..HISTORIES {
        let (mut rng, mut plain) = random_history(seed);
        let mut snapped = plain.clone();
        for step in 0..STEPS {
            if rng.chance(30) {
                let transaction = snapped.transaction();
                let waits = transaction.branches.iter().any(|branch| branch.next_attempt_at.is_some());
                waiting += u64::from(waits || transaction.commit_asked.is_some());
                let event = Event::Snapshot(Box::new(transaction.durable()));
                let mut effects: Vec<Effect> = Vec::new();
                apply(&mut snapped.state, xid(), event, snapped.now, &mut effects).expect("its own");
                assert_eq!(effects, []);
            }
            let (now, command) = random_step(&mut rng, &plain);
            plain.now = now;
            snapped.now = now;
            let expected = plain.run(command.clone());
            assert_eq!(snapped.run(command), expected, "seed {seed}, step {step}");
            assert_eq!(snapped.state, plain.state, "seed {seed}, step {step}");
            assert_eq!(snapped.effects, plain.effects, "seed {seed}, step {step}");
        }
    }
    assert!(waiting > HISTORIES, "{waiting} snapshots of what waited");
}
