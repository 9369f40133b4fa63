//! A partition's log and two nodes that take it from each other: the conditional append, epoch blocks, trims,
//! appends of unknown outcome, failovers.
//!
//! What the log carries is one decision: who was told one outcome must never be told the other. The database is
//! modelled as finely as PostgreSQL at READ COMMITTED behaves:
//!
//! - An append looks first (is my predecessor the last block?) and takes its place second; anything may happen
//!   in between, and it may happen long after its sender gave it up (protocol C4).
//! - A row is visible before the standby has it. An append is acknowledged when the standby has it; a failover loses
//!   what it has not.
//! - A trim deletes row by row, and goes on when its owner is deposed (C7, H17).

mod nodes;
mod rules;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};
use unanimity_types::Decision;

pub use nodes::{Node, Owner};
pub use table::{Block, Kind, Offer, Row};

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// An append does not look at its predecessor and overwrites nothing, wherever its place is.
    NoCondition,
    /// An append takes its place though it is taken.
    TakenSeqOverwritten,
    /// A trim deletes epoch blocks as well (C7).
    TrimDeletesEpochs,
    /// An append of unknown outcome is settled by a look (C4).
    SettledByRead,
    /// What is found to be there counts as acknowledged (C4).
    AlreadyThereReleases,
    /// Answers do not wait for their block (C5).
    AnswerBeforeDurable,
    /// A trim begins before what replaces the deleted is durable (H17).
    TrimBeforeSnapshot,
    /// A new owner reads without its own mark in the log.
    NoEpochBlock,
    /// A witness of a lost tail is not listened to (H6).
    WitnessIgnored,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The last place that blocks are written to.
    pub places: u8,
    /// How often a node takes the partition over.
    pub claims: u8,
    /// How many appends are on their way at most.
    pub offers: usize,
    /// How many appends are given up by their senders.
    pub unknowns: u8,
    /// How many failovers to the standby there are.
    pub failovers: u8,
    /// How many acknowledged blocks a failover loses: none, if the standby is a synchronous one.
    pub lost: u8,
    /// Whether owners clean the log up.
    pub cleans: bool,
    /// What is broken on purpose.
    pub bug: Option<Bug>,
}

impl Config {
    /// Two owners; appends of unknown outcome.
    #[must_use]
    pub const fn owners() -> Self {
        Self { places: 5, claims: 3, offers: 3, unknowns: 1, failovers: 0, lost: 0, cleans: false, bug: None }
    }

    /// Owners that clean the log up while others still believe in themselves.
    #[must_use]
    pub const fn cleaning() -> Self {
        Self { places: 7, claims: 3, offers: 2, unknowns: 0, cleans: true, ..Self::owners() }
    }

    /// A failover to a synchronous standby.
    #[must_use]
    pub const fn failover() -> Self {
        Self { claims: 2, offers: 2, unknowns: 1, failovers: 1, ..Self::owners() }
    }

    /// A failover to a standby that lacks an acknowledged block; clients are witnesses (H6).
    #[must_use]
    pub const fn lost_tail() -> Self {
        Self { claims: 3, places: 5, offers: 2, unknowns: 0, failovers: 1, lost: 1, ..Self::owners() }
    }

    /// The same with a rule broken.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

/// A place in the log that somebody saw durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Witness {
    /// The mark of the epoch block of its owner.
    pub epoch: u8,
    /// The place.
    pub seq: u8,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The table.
    pub rows: BTreeMap<u8, Row>,
    /// Appends on their way.
    pub offers: BTreeSet<Offer>,
    /// The nodes.
    pub nodes: [Node; 2],
    /// Trims on their way: below which place.
    pub trims: BTreeSet<u8>,
    claims: u8,
    unknowns: u8,
    failovers: u8,
    /// What was told, and where it stood.
    pub told: Option<(Decision, Witness)>,
    /// Somebody was told the other outcome.
    pub told_both: bool,
    /// A whole log was taken for a damaged one, or a gap was read over.
    pub misread: bool,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node looks at the end of the log, to take the partition over.
    LookAtTip(usize),
    /// It offers its epoch block.
    OfferEpoch(usize),
    /// Its epoch block is written: it reads.
    Read(usize),
    /// A client asks the owner to decide, or for the decision.
    Ask(usize, Decision),
    /// An owner seals a block; with a snapshot that replaces what lies before.
    Seal(usize, bool),
    /// An owner begins to delete what is not needed.
    Trim(usize),
    /// A node forgets all.
    Die(usize),
    /// An append looks at the end of the log.
    Look(Offer),
    /// An append takes its place, or finds it taken.
    Take(Offer),
    /// An append that wrote is acknowledged: the standby has it.
    Acknowledge(Offer),
    /// The sender of an append gives it up.
    GiveUp(Offer),
    /// It offers the same bytes again.
    OfferAgain(usize),
    /// One more row is deleted below a place.
    Delete(u8),
    /// The standby takes over.
    Failover,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Append {
    /// What is checked.
    pub config: Config,
}

impl Append {
    pub(crate) fn is(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }
}

impl Model for Append {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let birth = Block { seq: 0, mark: 0, previous: 0, kind: Kind::Birth, epoch: 0, floor: 0, says: None };
        vec![State {
            rows: BTreeMap::from([(0, Row { block: birth, safe: true })]),
            offers: BTreeSet::new(),
            nodes: [Node::Out, Node::Out],
            trims: BTreeSet::new(),
            claims: 0,
            unknowns: 0,
            failovers: 0,
            told: None,
            told_both: false,
            misread: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, node) in state.nodes.iter().enumerate() {
            self.node_actions(state, place, node, actions);
        }
        for offer in &state.offers {
            if !offer.looked {
                actions.push(Action::Look(*offer));
            } else if offer.wrote {
                actions.push(Action::Acknowledge(*offer));
            } else {
                actions.push(Action::Take(*offer));
            }
            if offer.heard && state.unknowns < self.config.unknowns {
                actions.push(Action::GiveUp(*offer));
            }
        }
        actions.extend(state.trims.iter().map(|floor| Action::Delete(*floor)));
        if state.failovers < self.config.failovers {
            actions.push(Action::Failover);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::LookAtTip(node) => {
                state.claims += 1;
                state.nodes[node] = Node::HasTip(state.tip());
            }
            Action::OfferEpoch(node) => self.offer_epoch(&mut state, node),
            Action::Read(node) => self.read(&mut state, node),
            Action::Ask(node, decision) => self.ask(&mut state, node, decision),
            Action::Seal(node, snapshot) => self.seal(&mut state, node, snapshot),
            Action::Trim(node) => self.trim(&mut state, node),
            Action::Die(node) => state.nodes[node] = Node::Out,
            Action::Look(offer) => self.look(&mut state, offer),
            Action::Take(offer) => self.take(&mut state, offer),
            Action::Acknowledge(offer) => self.acknowledge(&mut state, offer),
            Action::GiveUp(offer) => {
                state.unknowns += 1;
                state.offers.remove(&offer);
                state.offers.insert(Offer { heard: false, ..offer });
                self.settle_by_read(&mut state, offer.block);
            }
            Action::OfferAgain(node) => self.offer_again(&mut state, node),
            Action::Delete(floor) => self.delete(&mut state, floor),
            Action::Failover => self.failover(&mut state),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.rules()
    }
}
