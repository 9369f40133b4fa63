//! A partition's log moves from one server to another, and back (protocol H10).
//!
//! Two nodes, two servers, and the placement as data in the home database. Nodes believe in placements that are old;
//! whoever moves a log dies half-way, or sleeps and goes on much later; appends land late on a server that the log
//! has left. There must be one log.

mod steps;

use std::collections::BTreeSet;

use stateright::{Model, Property};
use unanimity_types::Decision;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// The log is copied without a seal.
    NoSeal,
    /// A server takes blocks behind a seal that names another one.
    SealIgnored,
    /// A node goes by a list of its own, and starts an empty log where it finds none.
    PlacementByFile,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often a node takes the partition over.
    pub claims: u8,
    /// How often it is moved.
    pub moves: u8,
    /// The most blocks that the log gets.
    pub blocks: usize,
    /// What is broken on purpose.
    pub bug: Option<Bug>,
}

impl Config {
    /// There and back.
    #[must_use]
    pub const fn there_and_back() -> Self {
        Self { claims: 3, moves: 2, blocks: 7, bug: None }
    }

    /// The same with a rule broken.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The first one.
    Birth,
    /// A new owner's mark.
    Epoch,
    /// Events.
    Data(Option<Decision>),
    /// The log goes on at this server.
    Seal(u8),
}

/// A block; its place is its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Stands for its checksum.
    pub mark: u8,
    /// The mark of the block before.
    pub previous: u8,
    /// What it is for.
    pub kind: Kind,
}

/// An append on its way to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offer {
    server: u8,
    seq: usize,
    block: Block,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// It has nothing to do with the partition.
    Out,
    /// It was told where the log is.
    Knows(u8),
    /// It offers its epoch block there.
    Claims(Offer),
    /// It owns the partition there.
    Owns(Owner),
    /// It brings the log to where a seal says that it goes on.
    Follows(Follower),
}

/// An owner's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    server: u8,
    last: (usize, u8),
    /// The decision as it is in memory.
    pub memory: Option<Decision>,
    building: bool,
    asked: bool,
    in_flight: Option<Offer>,
    made: u8,
}

/// Who moves a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Follower {
    source: u8,
    target: u8,
    /// The chain up to the seal, once it was read.
    chain: Vec<Block>,
    /// The place of the seal.
    seal: usize,
    imported: bool,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Each server's rows.
    pub tables: [Vec<Block>; 2],
    /// Where the log is, and the place of the seal that brought it there.
    pub place: (u8, usize),
    /// The nodes.
    pub nodes: [Node; 2],
    offers: BTreeSet<Offer>,
    claims: u8,
    moves: u8,
    /// What was told.
    pub told: Option<Decision>,
    told_both: bool,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node is told where the log is, or reads its file.
    LookUp(usize),
    /// It looks at the log's end there, and offers its mark or follows the seal.
    Claim(usize),
    /// A client asks an owner.
    Ask(usize, Decision),
    /// An owner writes what it decided.
    Write(usize),
    /// An owner seals the log.
    Move(usize),
    /// Whoever follows a seal reads the chain.
    ReadChain(usize),
    /// It copies the chain, all at once.
    Import(usize),
    /// It changes the placement.
    Flip(usize),
    /// A node forgets all.
    Die(usize),
    /// An append arrives.
    Arrive(Offer),
}

/// The model.
#[derive(Debug, Clone)]
pub struct Moving {
    /// What is checked.
    pub config: Config,
}

impl Moving {
    fn is(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }
}

impl Model for Moving {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let birth = Block { mark: 0, previous: 0, kind: Kind::Birth };
        vec![State {
            tables: [vec![birth], Vec::new()],
            place: (0, 0),
            nodes: [Node::Out, Node::Out],
            offers: BTreeSet::new(),
            claims: 0,
            moves: 0,
            told: None,
            told_both: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, node) in state.nodes.iter().enumerate() {
            match node {
                Node::Out if state.claims < self.config.claims => actions.push(Action::LookUp(place)),
                Node::Out | Node::Claims(_) => {}
                Node::Knows(_) => actions.push(Action::Claim(place)),
                Node::Owns(owner) => {
                    actions.push(Action::Die(place));
                    actions.push(Action::Ask(place, Decision::Commit));
                    actions.push(Action::Ask(place, Decision::Abort));
                    if owner.in_flight.is_none() && owner.last.0 + 1 < self.config.blocks {
                        if owner.building {
                            actions.push(Action::Write(place));
                        } else if state.moves < self.config.moves {
                            actions.push(Action::Move(place));
                        }
                    }
                }
                Node::Follows(follower) => {
                    actions.push(Action::Die(place));
                    actions.push(match (follower.chain.is_empty(), follower.imported) {
                        (true, _) => Action::ReadChain(place),
                        (false, false) => Action::Import(place),
                        (false, true) => Action::Flip(place),
                    });
                }
            }
        }
        actions.extend(state.offers.iter().map(|offer| Action::Arrive(*offer)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::LookUp(node) => {
                state.claims += 1;
                let by_file = u8::try_from(node).unwrap_or_default();
                let server = if self.is(Bug::PlacementByFile) { by_file } else { state.place.0 };
                state.nodes[node] = Node::Knows(server);
            }
            Action::Claim(node) => self.claim(&mut state, node),
            Action::Ask(node, decision) => Self::ask(&mut state, node, decision),
            Action::Write(node) => Self::write(&mut state, node),
            Action::Move(node) => self.seal(&mut state, node),
            Action::ReadChain(node) => Self::read_chain(&mut state, node),
            Action::Import(node) => Self::import(&mut state, node),
            Action::Flip(node) => Self::flip(&mut state, node),
            Action::Die(node) => state.nodes[node] = Node::Out,
            Action::Arrive(offer) => self.arrive(&mut state, offer),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut rules = vec![
            Property::always("I4 nobody is told both outcomes", |_, state: &State| !state.told_both),
            Property::always("H10 there is one log", |_: &Self, state: &State| {
                state.tables[0].iter().zip(&state.tables[1]).all(|(one, other)| one == other)
            }),
            Property::always("I3 what was told is in the log", |_, state: &State| {
                let longest = state.tables.iter().max_by_key(|table| table.len());
                let said = longest.into_iter().flatten().find_map(|block| match block.kind {
                    Kind::Data(said) => said,
                    _ => None,
                });
                state.told.is_none() || state.told == said
            }),
        ];
        if self.config.bug.is_none() {
            rules.extend(Self::sights());
        }
        rules
    }
}

impl Moving {
    fn sights() -> [Property<Self>; 5] {
        [
            Property::sometimes("it was moved, and goes on", |_, state: &State| {
                state.place.0 == 1 && state.tables[1].len() > state.place.1 + 1
            }),
            Property::sometimes("it was moved back", |_, state: &State| {
                state.place.0 == 0 && state.place.1 > 0
            }),
            Property::sometimes("somebody else follows a seal", |_, state: &State| {
                state.nodes.iter().filter(|node| matches!(node, Node::Follows(_))).count() == 2
            }),
            Property::sometimes("a node believes in an old placement", |_, state: &State| {
                state.nodes.iter().any(|node| matches!(node, Node::Knows(server) if *server != state.place.0))
            }),
            Property::sometimes("who follows an old seal comes late", |_, state: &State| {
                state.nodes.iter().any(
                    |node| matches!(node, Node::Follows(late) if late.imported && state.place.1 > late.seal),
                )
            }),
        ]
    }
}
