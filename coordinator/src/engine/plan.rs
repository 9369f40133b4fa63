//! How large a plan is: it goes into one block of the log and through the mailbox in one piece, so it
//! is measured before it is let in.

use unanimity_types::{ErrorCode, Limits, Plan, Target};

use super::error::Error;

/// A plan that is too large to be stored in one piece is refused before anything is written.
pub(super) fn check(plan: &Plan) -> Result<(), Error> {
    let bytes = bytes_of(plan);
    if bytes <= Limits::PLAN_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "a plan has at most {} bytes of payloads, targets and names together, this one has {bytes}; keep large data in your database and pass its key",
        Limits::PLAN_BYTES_MAX
    );
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

/// Everything in a plan whose size its author chooses.
pub(super) fn bytes_of(plan: &Plan) -> usize {
    match plan {
        Plan::Open => 0,
        Plan::Saga(plan) => {
            let steps = plan.steps.iter().map(|step| {
                let after: usize = step.after.iter().map(|name| name.as_str().len()).sum();
                let targets = target(&step.action) + step.compensate.as_ref().map_or(0, target);
                step.name.as_str().len() + step.payload.len() + after + targets
            });
            steps.sum()
        }
        Plan::Message(plan) => {
            let sender = plan.check_back.as_ref().map_or(0, target) + plan.check_back_payload.len();
            let deliveries = plan.deliveries.iter().map(|delivery| {
                delivery.key.as_str().len() + target(&delivery.target) + delivery.payload.len()
            });
            sender + deliveries.sum::<usize>()
        }
    }
}

fn target(target: &Target) -> usize {
    match target {
        Target::Participant { participant, operation } => {
            participant.as_str().len() + operation.as_str().len()
        }
        Target::Grpc(url) | Target::Http(url) => url.len(),
    }
}
