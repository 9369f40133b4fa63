//! The sender of prepared messages: its local transaction, and the question whether that committed (protocol H5).

use unanimity_types::Operation::{CheckBack, Try};

use super::Guarantee::{Fenced, Idempotent};
use super::{Scenario, Step};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::basic(vec![Step::Done(Try), Step::Done(CheckBack)]),
        Scenario::new(
            "check_back_twice",
            Idempotent,
            1,
            vec![Step::Done(Try), Step::Done(CheckBack), Step::Again(CheckBack)],
        ),
        Scenario::new("check_back_at_once", Idempotent, 1, vec![Step::Done(Try), Step::AtOnce(CheckBack)]),
        Scenario::new(
            "another_key_in_the_same_transaction",
            Idempotent,
            2,
            vec![Step::Done(Try), Step::OtherKey, Step::Done(Try), Step::Done(CheckBack)],
        )
        .for_observer(),
        Scenario::new(
            "check_back_before_the_local_transaction",
            Fenced,
            0,
            vec![Step::Refused(CheckBack), Step::Refused(Try), Step::Refused(CheckBack)],
        ),
        Scenario::new(
            "check_back_answer_dropped",
            Fenced,
            0,
            vec![Step::HangUp(CheckBack), Step::Refused(CheckBack), Step::Refused(Try)],
        ),
        Scenario::new("check_back_races_the_local_transaction", Fenced, 0, vec![Step::Agree]),
    ]
}
