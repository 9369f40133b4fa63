//! The invariants, and what must happen somewhere.

use stateright::Property;
use unanimity_types::{BranchStatus, Decision, Mode, Operation};

use super::{Exchange, State, Work};
use crate::core_table::{Fx, NOTHING};

/// Rules that are noticed when they are broken, not in what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    I1,
    I3,
    I4,
    I6,
    I7,
    I9,
    Log,
}

impl Rule {
    const fn bit(self) -> u16 {
        match self {
            Self::I1 => 1,
            Self::I3 => 2,
            Self::I4 => 4,
            Self::I6 => 8,
            Self::I7 => 16,
            Self::I9 => 32,
            Self::Log => 64,
        }
    }
}

impl State {
    pub(super) const fn breaks(&mut self, rule: Rule) {
        self.wrong |= rule.bit();
    }

    pub(super) const fn breaks_if(&mut self, broken: bool, rule: Rule) {
        if broken {
            self.breaks(rule);
        }
    }

    const fn broke(&self, rule: Rule) -> bool {
        self.wrong & rule.bit() != 0
    }

    fn any(&self, works: &[Work]) -> bool {
        self.sites.iter().any(|site| works.contains(&site.work))
    }
}

impl Exchange {
    pub(super) fn rules(&self) -> Vec<Property<Self>> {
        let mut rules = vec![
            Property::always("I1 no branch is done while another is undone", Self::i1),
            Property::always("I2 done only behind a durable commit, and with every vote", Self::i2),
            Property::always("I3 what was told is durable and stays", Self::i3),
            Property::always("I4 nobody is told both outcomes", |_, state: &State| !state.broke(Rule::I4)),
            Property::always("I5 what is owed is on its way or planned", Self::i5),
            Property::always("I6 at most once, and never both ways", |_, state: &State| {
                !state.broke(Rule::I6)
            }),
            Property::always("I7 all steps, or what ran is undone in reverse order", Self::i7),
            Property::always("I8 who was registered is decided about", Self::i8),
            Property::always("I9 a stale owner writes nothing", |_, state: &State| !state.broke(Rule::I9)),
            Property::always("the log can be replayed", |_, state: &State| !state.broke(Rule::Log)),
            Property::sometimes("an abort ends", |model, state| model.ended(state, Decision::Abort)),
        ];
        if self.config.bug.is_none() {
            rules.extend(self.sights());
        }
        rules
    }

    /// What must be seen somewhere: else the model would prove less than it seems to.
    fn sights(&self) -> Vec<Property<Self>> {
        let config = &self.config;
        let mut sights = vec![
            Property::<Self>::sometimes("a commit ends", |model, state| model.ended(state, Decision::Commit)),
            Property::sometimes("a deposed owner decided otherwise", |model, state: &State| {
                let durable = model.core.look(state.log).decision;
                state.nodes.iter().flatten().any(|life| {
                    let memory = model.core.look(life.memory).decision;
                    life.epoch != state.epoch && memory.is_some() && durable.is_some() && memory != durable
                })
            }),
            Property::sometimes("a takeover finds it decided and unsettled", |model, state: &State| {
                let look = model.core.look(state.log);
                state.takeovers > 0 && look.decision.is_some() && !look.finished
            }),
            Property::sometimes("what is told waits for its block", |_, state: &State| {
                state.nodes.iter().flatten().any(|life| life.held.iter().any(|held| held.told.is_some()))
            }),
        ];
        if config.mode != Mode::Saga {
            sights.push(Property::sometimes("a cancel comes before what it cancels", |_, state: &State| {
                state.sites.iter().any(|site| site.early_cancel)
            }));
        }
        if config.attempts > 1 {
            sights.push(Property::sometimes("an operation is tried again", |_, state: &State| {
                state.flights.keys().any(|flight| flight.attempt > 1)
            }));
        }
        if config.one_phase {
            sights.push(Property::sometimes("the only branch decides", |model, state: &State| {
                model.core.look(state.log).delegated && state.any(&[Work::Done])
            }));
        }
        if config.mode == Mode::TwoPhase && config.refusals {
            sights.push(Property::sometimes(
                "a branch refuses after another has prepared",
                |_, state: &State| {
                    state.any(&[Work::Tombstone]) && (state.sites.len() == 1 || state.any(&[Work::Ready]))
                },
            ));
        }
        if config.read_only {
            sights
                .push(Property::sometimes("a branch without changes is left out", |model, state: &State| {
                    state.any(&[Work::ReadOnly]) && model.ended(state, Decision::Commit)
                }));
        }
        if config.ticketed {
            sights.push(Property::sometimes("registrations die with their owner", |_, state: &State| {
                state.log == NOTHING && state.epoch > 1 && state.sites.iter().any(|site| site.registered)
            }));
        }
        if config.mode == Mode::Saga {
            sights.push(Property::sometimes("a step that ran is compensated", |_, state: &State| {
                state.sites.iter().any(|site| site.work == Work::RolledBack && !site.early_cancel)
            }));
            sights.push(Property::sometimes("a step that did not run is compensated", |_, state: &State| {
                state.sites.iter().any(|site| site.early_cancel)
            }));
        }
        if !config.fenced {
            sights.push(Property::sometimes("a compensation is held back", |model, state: &State| {
                state.nodes.iter().flatten().any(|life| {
                    model.core.look(life.memory).branches.iter().any(|branch| {
                        branch.status == BranchStatus::ToCompensate
                            && branch.due.is_some_and(|due| due > state.tick)
                    })
                })
            }));
            sights.push(Property::sometimes("a refusal comes after the step ran", |_, state: &State| {
                state.sites.iter().any(|site| site.refused_after)
            }));
            sights.push(Property::sometimes("an owner without a lease still lives", |_, state: &State| {
                state.nodes.iter().flatten().any(|life| state.tick >= life.lease)
            }));
        }
        sights
    }

    fn ended(&self, state: &State, decision: Decision) -> bool {
        let look = self.core.look(state.log);
        look.finished && look.decision == Some(decision) && !look.branches.is_empty()
    }

    fn i1(&self, state: &State) -> bool {
        let torn = state.any(&[Work::Done]) && state.any(&[Work::RolledBack, Work::Tombstone]);
        !state.broke(Rule::I1) && (self.config.mode == Mode::Saga || !torn)
    }

    fn i2(&self, state: &State) -> bool {
        let look = self.core.look(state.log);
        let voted = |site: u8| {
            let site = &state.sites[usize::from(site)];
            site.voted || site.work == Work::ReadOnly
        };
        let done = self.config.mode != Mode::Saga && state.any(&[Work::Done]);
        // A delegate is the decision.
        let decided = match look.decision {
            Some(decision) => decision == Decision::Commit,
            None => self.config.one_phase && look.delegated,
        };
        let all_voted = look.decision != Some(Decision::Commit)
            || self.config.mode == Mode::Saga
            || look.branches.iter().all(|branch| voted(branch.site));
        (!done || decided) && all_voted
    }

    fn i3(&self, state: &State) -> bool {
        !state.broke(Rule::I3) && state.client.told.is_none_or(|told| self.stands(state, told))
    }

    /// Of the owner that can write: a deposed one owes nothing.
    fn i5(&self, state: &State) -> bool {
        let Some(life) = state.nodes.iter().flatten().find(|life| life.epoch == state.epoch) else {
            return true;
        };
        self.core.look(life.memory).branches.iter().all(|branch| {
            let Some(owed) = branch.owed else { return true };
            // A rollback waits until the prepare that runs has returned (protocol H3).
            let is_it = |site: u8, operation: Operation| {
                let first = owed == Operation::Rollback && operation == Operation::Prepare;
                site == branch.site && (operation == owed || first)
            };
            let held = life.held.iter().flat_map(|held| &held.fx);
            branch.due.is_some()
                || held
                    .into_iter()
                    .any(|fx| matches!(fx, Fx::Dispatch { site, operation, .. } if is_it(*site, *operation)))
                || state.flights.iter().any(|(flight, fate)| {
                    flight.life == life.epoch && !fate.given_up && is_it(flight.site, flight.operation)
                })
                || state
                    .replies
                    .iter()
                    .any(|reply| reply.life == life.epoch && is_it(reply.site, reply.operation))
        })
    }

    fn i7(&self, state: &State) -> bool {
        if self.config.mode != Mode::Saga {
            return true;
        }
        let look = self.core.look(state.log);
        let pivot = self.config.pivot.map_or(usize::MAX, usize::from);
        let whole = match look.decision.filter(|_| look.finished) {
            Some(Decision::Commit) => state.sites.iter().all(|site| site.work == Work::Done),
            // The pivot, and what comes after it, has nothing to undo: where it ran there is no abort.
            Some(Decision::Abort) => !state.any(&[Work::Done]),
            None => true,
        };
        let past_pivot = state.sites.iter().skip(pivot).any(|site| site.work == Work::Done);
        let turned = past_pivot && look.decision == Some(Decision::Abort);
        // A step runs when all before it have run.
        let in_order = look.decision.is_some()
            || state.sites.windows(2).all(|pair| pair[1].work != Work::Done || pair[0].work == Work::Done);
        !state.broke(Rule::I7) && whole && !turned && in_order
    }

    fn i8(&self, state: &State) -> bool {
        let look = self.core.look(state.log);
        if self.config.ticketed && look.decision != Some(Decision::Commit) {
            return true;
        }
        let is_known = |site: u8| look.branches.iter().any(|branch| branch.site == site);
        (0..).zip(&state.sites).all(|(site, place)| !place.registered || is_known(site))
    }
}
