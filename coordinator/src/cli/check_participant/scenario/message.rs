//! The receiver of messages.

use unanimity_types::Operation::Deliver;

use super::Guarantee::{Fenced, Idempotent};
use super::{Scenario, Step};

pub(super) fn scenarios() -> Vec<Scenario> {
    let twice = vec![Step::Done(Deliver), Step::Again(Deliver)];
    let between = |other| vec![Step::Done(Deliver), other, Step::Done(Deliver)];
    vec![
        Scenario::basic(vec![Step::Done(Deliver)]),
        Scenario::new("deliver_twice", Idempotent, 1, twice),
        Scenario::new("same_key_in_another_transaction", Idempotent, 2, between(Step::OtherXid))
            .for_observer(),
        Scenario::new("another_key_in_the_same_transaction", Idempotent, 2, between(Step::OtherKey))
            .for_observer(),
        Scenario::new(
            "deliver_answer_dropped",
            Idempotent,
            1,
            vec![Step::HangUp(Deliver), Step::Done(Deliver)],
        ),
        Scenario::new("deliver_at_once", Idempotent, 1, vec![Step::AtOnce(Deliver)]),
        // A receiver that remembers only the last message takes a late copy of an earlier one for a new one.
        Scenario::new(
            "deliver_late",
            Fenced,
            2,
            vec![
                Step::Done(Deliver),
                Step::OtherXid,
                Step::Done(Deliver),
                Step::OtherXid,
                Step::Again(Deliver),
            ],
        ),
    ]
}
