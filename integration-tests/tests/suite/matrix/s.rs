//! Rows S1 to S6 and S8: sagas; O1 to O3 as the coordinator sees them: messages.

use super::case::{Case, Want, run};
use super::story::Story::{self, CheckBack, CheckBackNo, Message, Saga, SagaParked, SagaRefused};

const fn done(row: &'static str, story: Story, point: &'static str) -> Case {
    Case::new(row, story, point, Want::Committed)
}

const fn back(row: &'static str, point: &'static str) -> Case {
    Case::new(row, SagaRefused, point, Want::Aborted)
}

pub(super) const CASES: &[Case] = &[
    // The step is owed and was not called.
    done("S1", Saga, "append.before.plan_accepted"),
    done("S1", Saga, "append.after.plan_accepted").gone().down(),
    done("S1", Saga, "dispatch.before.action").gone(),
    done("S1", Saga, "dispatch.before.action").second().lossy(),
    // It was called, and its result is not durable: the same key again, the same result.
    done("S2", Saga, "dispatch.after.action").down(),
    done("S2", Saga, "result.action").gone(),
    done("S2", Saga, "result.action").second(),
    done("S2", Saga, "append.before.action_done").lossy(),
    done("S2", Saga, "append.before.action_done").second(),
    done("S2", Saga, "append.after.action_done").second().gone(),
    // A refusal was seen, and the turn is not durable: one direction in the end.
    back("S3", "append.before.action_refused").gone(),
    back("S3", "append.before.action_refused").second(),
    back("S3", "append.after.action_refused").down(),
    // The outcome of the third step is unknown: it is compensated like one that ran, though it did nothing.
    Case::new("S4", SagaRefused, "append.before.action_done", Want::Aborted).lossy(),
    back("S4", "dispatch.before.compensate").gone(),
    back("S4", "dispatch.before.compensate").second(),
    back("S4", "dispatch.after.compensate").down(),
    // Compensated, and not recorded.
    back("S5", "result.compensate").gone(),
    back("S5", "result.compensate").second().lossy(),
    back("S5", "append.before.branch_settled").lossy(),
    back("S5", "append.before.branch_settled").second(),
    // A compensation that is refused is parked, visible, and goes on when somebody says so.
    Case::new("S6", SagaParked, "append.before.parked", Want::Aborted),
    Case::new("S6", SagaParked, "append.before.parked", Want::Aborted).second(),
    Case::new("S6", SagaParked, "append.after.parked", Want::Aborted).gone(),
    Case::new("S6", SagaParked, "append.after.parked", Want::Aborted).down(),
    // The sender's local transaction never was: no message.
    Case::new("O1", CheckBackNo, "append.before.check_back_asked", Want::Aborted),
    Case::new("O1", CheckBackNo, "dispatch.after.check_back", Want::Aborted).second(),
    Case::new("O1", CheckBackNo, "result.check_back", Want::Aborted).lossy(),
    // It is there, and nobody submitted the message.
    done("O2", CheckBack, "append.after.check_back_asked").down(),
    done("O2", CheckBack, "dispatch.before.check_back").second(),
    done("O2", CheckBack, "result.check_back").gone(),
    done("O2", Message, "append.before.decided").gone(),
    done("O2", Message, "dispatch.before.deliver").gone().down(),
    // Delivered, and not recorded: again, with the same id.
    done("O3", Message, "dispatch.after.deliver").second(),
    done("O3", Message, "result.deliver").lossy(),
    done("O3", Message, "append.before.branch_settled").second().gone(),
];

macro_rules! rows {
    ($(async fn $name:ident() = $row:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run(CASES, $row).await;
            }
        )*
    };
}

rows! {
    async fn s1_a_step_that_was_not_called_is_called() = "S1";
    async fn s2_a_step_whose_result_was_lost_is_asked_again() = "S2";
    async fn s3_a_saga_goes_in_one_direction() = "S3";
    async fn s4_a_step_of_unknown_outcome_is_compensated() = "S4";
    async fn s5_a_compensation_may_be_repeated() = "S5";
    async fn s6_a_refused_compensation_is_parked_and_resumed() = "S6";
    async fn o1_without_its_local_transaction_there_is_no_message() = "O1";
    async fn o2_a_committed_message_is_delivered_after_a_restart() = "O2";
    async fn o3_a_delivery_that_was_not_recorded_comes_again_with_the_same_id() = "O3";
}
