//! Whether clients, books and history tell one story of each transfer.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::clients::{Place, Story, Wanted};
use crate::one_story::{of_hearsay, of_history};
use crate::orders::Told;

/// All entries of one transfer, in all banks.
pub(super) type Entries = Vec<(Place, i64)>;
/// Status of each transaction, and whether it is a heuristic one.
pub(super) type History = HashMap<Uuid, (String, bool)>;

/// What a transfer did: both halves as they were ordered, or nothing, perhaps after what it did was undone.
fn outcome(wanted: &Wanted, entries: &[(Place, i64)]) -> Result<Told, &'static str> {
    let mut moved: BTreeMap<&Place, i64> = BTreeMap::new();
    for (place, cents) in entries {
        *moved.entry(place).or_default() += cents;
    }
    moved.retain(|_, cents| *cents != 0);
    let ordered = BTreeMap::from([(&wanted.from, -wanted.cents), (&wanted.to, wanted.cents)]);
    if moved.is_empty() {
        Ok(Told::Aborted)
    } else if moved == ordered {
        Ok(Told::Committed)
    } else if moved.iter().all(|(place, cents)| ordered.get(place) == Some(cents)) {
        Err("one half is there and the other is not")
    } else {
        Err("its entries are not what was ordered")
    }
}

/// What is wrong, transfer by transfer.
pub(super) fn judge(
    stories: &HashMap<Uuid, Story>,
    entries: &HashMap<String, Entries>,
    history: &History,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (id, Story { wanted, heard }) in stories {
        let entries = entries.get(&id.to_string()).map(Vec::as_slice).unwrap_or_default();
        let recorded = history.get(id);
        let mut problem = |what: &str| {
            problems.push(format!(
                "transfer {id}: {what}: ordered {wanted:?}, heard {heard:?}, entries {entries:?}, history {recorded:?}"
            ));
        };
        let committed = match outcome(wanted, entries) {
            Ok(outcome) => outcome == Told::Committed,
            Err(why) => {
                problem(why);
                continue;
            }
        };
        let is_named = wanted.mode.is_named();
        if is_named || heard.has_outcome() {
            of_hearsay(heard, committed).into_iter().for_each(&mut problem);
        }
        // Aborted before anybody registered: nothing needs to be remembered.
        if is_named && (committed || recorded.is_some()) {
            of_history(recorded, committed).into_iter().for_each(&mut problem);
        }
    }
    let strangers = entries.keys().filter(|id| !id.parse().is_ok_and(|id| stories.contains_key(&id)));
    problems.extend(strangers.map(|id| format!("nobody ordered {id}")));
    problems
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::super::clients::Mode;
    use super::*;
    use crate::orders::Heard;

    fn judged(
        mode: Mode,
        heard: &[Told],
        entries: &[(&'static str, i64)],
        status: Option<&str>,
    ) -> Vec<String> {
        let id = Uuid::new_v4();
        let place = |bank| (bank, "a".to_owned());
        let wanted =
            Wanted { mode, from: place("north"), to: place("east"), cents: 5, approved: true, own: true };
        let heard = Heard(heard.iter().map(|told| ("somebody", *told)).collect());
        let entries = entries.iter().map(|(bank, cents)| (place(bank), *cents)).collect();
        let history = status.map(|status| (id, (status.to_owned(), false)));
        judge(
            &HashMap::from([(id, Story { wanted, heard })]),
            &HashMap::from([(id.to_string(), entries)]),
            &history.into_iter().collect(),
        )
    }

    const MOVED: &[(&str, i64)] = &[("north", -5), ("east", 5)];
    const UNDONE: &[(&str, i64)] = &[("north", -5), ("east", 5), ("east", -5), ("north", 5)];

    #[test]
    fn one_story_is_fine() {
        for (mode, heard, entries, status) in [
            (Mode::Tcc, &[Told::Unknown, Told::Committed][..], MOVED, Some("committed")),
            (Mode::Saga, &[Told::Aborted], UNDONE, Some("aborted")),
            (Mode::TwoPhase, &[Told::Aborted], &[], None),
            (Mode::Outbox, &[Told::Unknown], MOVED, None),
        ] {
            let problems = judged(mode, heard, entries, status);
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    #[test]
    fn anything_else_is_found() {
        for (heard, entries, status, what) in [
            (&[Told::Committed, Told::Aborted][..], MOVED, Some("committed"), "two outcomes"),
            (&[Told::Aborted], MOVED, Some("committed"), "something else than what is"),
            (&[Told::Committed], &[], Some("aborted"), "something else than what is"),
            (&[Told::Unknown], MOVED, Some("committed"), "never heard"),
            (&[Told::Committed], MOVED, Some("aborted"), "history"),
            (&[Told::Committed], MOVED, None, "history"),
            (&[Told::Committed], &MOVED[..1], Some("committed"), "one half"),
            (&[Told::Aborted], &UNDONE[..3], Some("aborted"), "one half"),
            (&[Told::Committed], &[MOVED[0], MOVED[1], MOVED[1]], Some("committed"), "not what was ordered"),
        ] {
            let problems = judged(Mode::Tcc, heard, entries, status);
            assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
        }
        let strangers = HashMap::from([(Uuid::new_v4().to_string(), Entries::default())]);
        assert_eq!(judge(&HashMap::new(), &strangers, &HashMap::new()).len(), 1);
    }
}
