//! What many transactions have in common is held once: their names, and where their branches' operations
//! go.

use std::collections::HashSet;
use std::sync::Arc;

use unanimity_core::Event;
use unanimity_types::{BranchTargets, Name};

use crate::entropy::HashState;

/// So many different ones are remembered. Programs have few; URLs with a number in them are many, and
/// share nothing.
const REMEMBERED_MAX: usize = 4_096;

/// Names and targets that came before.
#[derive(Debug, Default)]
pub(super) struct Shared {
    names: HashSet<Name, HashState>,
    targets: HashSet<Arc<BranchTargets>, HashState>,
}

impl Shared {
    /// Lets the event hold what others hold already.
    pub(super) fn share(&mut self, event: &mut Event) {
        match event {
            Event::Begun { name: Some(name), .. } => self.name(name),
            Event::Registered { targets, .. } => self.targets(targets),
            Event::Snapshot(transaction) => {
                if let Some(name) = &mut transaction.name {
                    self.name(name);
                }
                for branch in &mut transaction.branches {
                    self.targets(&mut branch.targets);
                }
            }
            _ => {}
        }
    }

    fn name(&mut self, name: &mut Name) {
        if let Some(known) = self.names.get(name) {
            *name = known.clone();
        } else {
            // Whoever is in use comes again.
            if self.names.len() >= REMEMBERED_MAX {
                self.names.clear();
            }
            self.names.insert(name.clone());
        }
    }

    fn targets(&mut self, targets: &mut Arc<BranchTargets>) {
        if let Some(known) = self.targets.get(targets) {
            *targets = Arc::clone(known);
        } else {
            if self.targets.len() >= REMEMBERED_MAX {
                self.targets.clear();
            }
            self.targets.insert(Arc::clone(targets));
        }
    }
}
