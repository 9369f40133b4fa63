//! The rules of protocol.md that concern the core, each by its name: those of every transaction in
//! `decision` and `attempts`, those of a mode in a file of its own.

mod attempts;
mod decision;
mod messages;
mod plans;
mod sagas;
mod two_phase;

use unanimity_core::Effect;
use unanimity_types::Operation;

fn dispatched(effects: &[Effect]) -> Vec<(u32, Operation, u32)> {
    let each = effects.iter().filter_map(|effect| match effect {
        Effect::Dispatch { branch_id, operation, attempt } => Some((branch_id.0, *operation, *attempt)),
        _ => None,
    });
    each.collect()
}
