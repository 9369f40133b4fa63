//! The state machine: any command at any time, any event at any time.

use proptest::prelude::*;
use unanimity_core::{Event, Persistence, Transaction, apply, decide, pending};
use unanimity_types::Timestamp;

use crate::cases;
use crate::dice::{Dice, context, xid};

/// All events that came of some commands, and the state they led to.
pub(crate) fn play(bytes: &[u8]) -> (Option<Transaction>, Vec<(Timestamp, Event)>) {
    let (mut dice, mut now) = (Dice(bytes), Timestamp(1_000_000));
    let (mut state, mut events): (Option<Transaction>, _) = (None, Vec::new());
    while !dice.is_over() {
        now = dice.later(now);
        let before = state.as_ref().and_then(|known| known.decision.clone());
        let verdict = decide(state.as_ref(), dice.command(), context(now));
        let mut effects = Vec::new();
        for event in verdict.events {
            apply(&mut state, xid(), event.clone(), now, &mut effects)
                .expect("what was decided can be applied");
            events.push((now, event));
        }
        let after = state.as_ref().and_then(|known| known.decision.clone());
        assert!(before.is_none() || before == after, "a decision changed (I3)");
        if dice.byte() == 0
            && let Some(known) = &mut state
        {
            // A takeover: what was volatile is gone.
            *known = known.durable();
            let _ = pending(known, context(now));
        }
    }
    (state, events)
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn any_command_at_any_time(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (state, events) = play(&bytes);
        if let Some(known) = state {
            prop_assert!(known.finished_at.is_none() || known.decision.is_some());
        }
        // What is written leads to a state by itself, also without what is not.
        let written = events.iter().filter(|(_, event)| event.persistence() != Persistence::Volatile);
        let mut replayed = None;
        for (at, event) in written {
            let _ = apply(&mut replayed, xid(), event.clone(), *at, &mut Vec::new());
        }
    }

    #[test]
    fn any_event_at_any_time(
        one in proptest::collection::vec(any::<u8>(), 0..300),
        other in proptest::collection::vec(any::<u8>(), 0..300),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let mut events = play(&one).1;
        events.extend(play(&other).1);
        prop_assume!(!events.is_empty());
        let mut state = None;
        for index in order {
            let (at, event) = index.get(&events).clone();
            let before = state.clone();
            if apply(&mut state, xid(), event, at, &mut Vec::new()).is_err() {
                prop_assert_eq!(&state, &before, "a refused event changes nothing");
            }
        }
        if let Some(known) = &mut state {
            let _ = pending(known, context(Timestamp(2_000_000)));
        }
    }
}
