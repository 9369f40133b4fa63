//! The numbers that history's tables hold instead of words: the place of a word in its list, from 1.
//! The views of the migrations name the same lists; a test holds them together.

use unanimity_types::{BranchStatus, Mode, Status};

/// A mode's number.
pub(super) fn of_mode(mode: Mode) -> i16 {
    place(Mode::ALL, mode)
}

/// A status's number.
pub(super) fn of_status(status: Status) -> i16 {
    place(Status::ALL, status)
}

/// The mode behind a number; `None` if a later version wrote it.
pub(super) fn to_mode(number: i64) -> Option<Mode> {
    at(Mode::ALL, number)
}

/// The status behind a number; `None` if a later version wrote it.
pub(super) fn to_status(number: i64) -> Option<Status> {
    at(Status::ALL, number)
}

/// A branch's status as a number, if the view `branches` knows it by that.
pub(crate) fn of_branch_status(status: BranchStatus) -> Option<i16> {
    let number = place(BranchStatus::ALL, status);
    (1..=BRANCH_STATUSES).contains(&number).then_some(number)
}

/// The branch's status behind a number.
pub(crate) fn to_branch_status(number: i64) -> Option<BranchStatus> {
    at(BranchStatus::ALL, number)
}

/// How many statuses of branches the view `branches` knows by number. A status that is added later goes
/// into rows as its word.
const BRANCH_STATUSES: i16 = 28;

fn place<T: Copy + PartialEq>(all: &[T], wanted: T) -> i16 {
    let place = all.iter().position(|one| *one == wanted).unwrap_or(all.len());
    i16::try_from(place + 1).unwrap_or(i16::MAX)
}

fn at<T: Copy>(all: &[T], number: i64) -> Option<T> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    all.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIGRATIONS: [&str; 2] = [
        include_str!("../../../migrations/coordinator/postgres/0003_history_by_day.sql"),
        include_str!("../../../migrations/coordinator/sqlite/0003_history_compact.sql"),
    ];

    fn listed(words: impl Iterator<Item = &'static str>, quote: char) -> String {
        words.map(|word| format!("{quote}{word}{quote}")).collect::<Vec<_>>().join(", ")
    }

    /// Released migrations do not change: neither may the order of these words.
    #[test]
    fn the_views_name_the_same_words_in_the_same_order() {
        let modes = listed(Mode::ALL.iter().map(|mode| mode.as_str()), '\'');
        let statuses = listed(Status::ALL.iter().map(|status| status.as_str()), '\'');
        assert!(MIGRATIONS[0].contains(&format!("ARRAY[{modes}]")), "{modes}");
        assert!(MIGRATIONS[0].contains(&format!("ARRAY[{statuses}]")), "{statuses}");
        for (place, mode) in Mode::ALL.iter().enumerate() {
            assert!(MIGRATIONS[1].contains(&format!("WHEN {} THEN '{mode}'", place + 1)), "{mode}");
        }
        for (place, status) in Status::ALL.iter().enumerate() {
            assert!(MIGRATIONS[1].contains(&format!("WHEN {} THEN '{status}'", place + 1)), "{status}");
        }
        let known = usize::try_from(BRANCH_STATUSES).expect("few");
        for (migration, quote) in MIGRATIONS.iter().zip(['\'', '"']) {
            let words = BranchStatus::ALL.iter().take(known).map(|status| status.as_str());
            let flat = migration.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(&listed(words, quote)), "branch statuses");
        }
    }

    #[test]
    fn numbers_come_back_as_they_went_in() {
        assert!(Mode::ALL.iter().all(|mode| to_mode(of_mode(*mode).into()) == Some(*mode)));
        assert!(Status::ALL.iter().all(|status| to_status(of_status(*status).into()) == Some(*status)));
        for status in BranchStatus::ALL {
            let number = of_branch_status(*status).expect("every one has a number so far");
            assert_eq!(to_branch_status(number.into()), Some(*status));
        }
        assert_eq!((to_status(0), to_status(7), to_mode(-1)), (None, None, None));
    }
}
