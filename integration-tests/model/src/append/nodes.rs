//! Nodes: how they become owners, what they hold back, and when they know that they are none.

use unanimity_types::Decision;

use super::table::Appended;
use super::{Action, Append, Block, Bug, Kind, Offer, State, Witness};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// It owns nothing.
    Out,
    /// It has looked at the end of the log.
    HasTip(Block),
    /// It offers its epoch block.
    Claims(Block),
    /// Its epoch block is written; it has read nothing yet.
    Marked(Block),
    /// It believes to own the partition.
    Owns(Owner),
    /// A witness showed it that the log lost its tail.
    Stopped,
}

/// An owner's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its epoch block's mark.
    pub epoch: Block,
    /// The last block that it knows to be durable.
    pub durable: Block,
    /// Its last block that is known to be there, but not that the standby has it.
    pub there: Option<Block>,
    /// The decision as it is in memory.
    pub memory: Option<Decision>,
    /// The decision was made and is in no block yet.
    pub building: bool,
    /// The block that is being written.
    pub in_flight: Option<Block>,
    /// Somebody waits for the decision.
    pub asked: bool,
    /// A durable block from which on nothing before is needed.
    pub snapshot: u8,
    /// How many blocks it made.
    pub made: u8,
    /// It has been cleaning.
    pub trimmed: bool,
}

impl Owner {
    fn last(&self) -> Block {
        self.there.unwrap_or(self.durable)
    }
}

impl Append {
    pub(super) fn node_actions(&self, state: &State, place: usize, node: &Node, actions: &mut Vec<Action>) {
        let room = state.offers.len() < self.config.offers;
        match node {
            Node::Out => {
                if state.claims < self.config.claims {
                    actions.push(Action::LookAtTip(place));
                }
            }
            Node::HasTip(tip) => {
                if room && tip.seq < self.config.places {
                    actions.push(Action::OfferEpoch(place));
                }
            }
            Node::Claims(block) => {
                if room && !state.offers.iter().any(|offer| offer.block == *block && offer.heard) {
                    actions.push(Action::OfferAgain(place));
                }
            }
            Node::Marked(_) => actions.push(Action::Read(place)),
            Node::Stopped => {}
            Node::Owns(owner) => {
                actions.push(Action::Ask(place, Decision::Commit));
                actions.push(Action::Ask(place, Decision::Abort));
                actions.push(Action::Die(place));
                match owner.in_flight {
                    Some(block) => {
                        let waits = state.offers.iter().any(|offer| offer.block == block && offer.heard);
                        if room && !waits {
                            actions.push(Action::OfferAgain(place));
                        }
                    }
                    None if room && owner.last().seq < self.config.places => {
                        let floor = owner.snapshot > owner.durable.floor;
                        if owner.building || owner.there.is_some() || floor {
                            actions.push(Action::Seal(place, false));
                        }
                        if self.config.cleans && owner.snapshot == 0 && !owner.building {
                            actions.push(Action::Seal(place, true));
                        }
                    }
                    None => {}
                }
                let may_trim =
                    owner.durable.floor > 0 || self.is(Bug::TrimBeforeSnapshot) && owner.in_flight.is_some();
                if self.config.cleans && may_trim && !owner.trimmed {
                    actions.push(Action::Trim(place));
                }
            }
        }
    }

    pub(super) fn offer_epoch(&self, state: &mut State, place: usize) {
        let Node::HasTip(tip) = state.nodes[place] else { return };
        // The claims are numbered: no two epoch blocks are the same, whatever the place.
        let mark = 0x80 | state.claims << 1 | u8::try_from(place).unwrap_or_default();
        let block = Block {
            seq: tip.seq + 1,
            mark,
            previous: tip.mark,
            kind: Kind::Epoch,
            epoch: tip.epoch + 1,
            floor: tip.floor,
            says: None,
        };
        if self.is(Bug::NoEpochBlock) {
            state.nodes[place] = Node::Marked(tip);
            return;
        }
        state.nodes[place] = Node::Claims(block);
        state.offers.insert(Offer { block, looked: false, wrote: false, heard: true });
    }

    pub(super) fn offer_again(&self, state: &mut State, place: usize) {
        let block = match &state.nodes[place] {
            Node::Claims(block) => Some(*block),
            Node::Owns(owner) => owner.in_flight,
            _ => None,
        };
        state.offers.extend(block.map(|block| Offer { block, looked: false, wrote: false, heard: true }));
    }

    /// Reads what is there, in one snapshot.
    pub(super) fn read(&self, state: &mut State, place: usize) {
        let Node::Marked(epoch) = state.nodes[place] else { return };
        let tip = state.tip();
        if tip.mark != epoch.mark {
            // Somebody appended meanwhile, or its mark went into a place that a trim had freed.
            state.nodes[place] = Node::Out;
            return;
        }
        let from_floor: Vec<Block> = state.rows.range(tip.floor..).map(|(_, row)| row.block).collect();
        let whole = from_floor.first().is_some_and(|first| first.seq == tip.floor)
            && from_floor
                .windows(2)
                .all(|pair| pair[0].seq + 1 == pair[1].seq && pair[0].mark == pair[1].previous);
        if !whole {
            state.misread = true;
            state.nodes[place] = Node::Out;
            return;
        }
        let memory = from_floor.iter().rev().find_map(|block| block.says);
        state.nodes[place] = Node::Owns(Owner {
            epoch,
            durable: epoch,
            there: None,
            memory,
            building: false,
            in_flight: None,
            asked: false,
            snapshot: tip.floor,
            made: 0,
            trimmed: false,
        });
    }

    pub(super) fn ask(&self, state: &mut State, place: usize, decision: Decision) {
        if self.shows_a_loss(state, place) {
            state.nodes[place] = Node::Stopped;
            return;
        }
        let Node::Owns(owner) = &mut state.nodes[place] else { return };
        if owner.memory.is_none() {
            owner.memory = Some(decision);
            owner.building = true;
        }
        owner.asked = true;
        self.release(state, place);
    }

    /// Whether the client, who shows what it saw, saw what this log does not hold (H6).
    fn shows_a_loss(&self, state: &State, place: usize) -> bool {
        let (Node::Owns(owner), Some((_, witness))) = (&state.nodes[place], state.told) else { return false };
        if self.is(Bug::WitnessIgnored) {
            return false;
        }
        if witness.epoch == owner.epoch.mark {
            return witness.seq > owner.durable.seq;
        }
        let epochs: Vec<Block> =
            state.rows.values().map(|row| row.block).filter(|block| block.kind == Kind::Epoch).collect();
        let Some(at) = epochs.iter().position(|block| block.mark == witness.epoch) else { return true };
        // Its epoch ended where the next one began.
        epochs.get(at + 1).is_some_and(|next| next.seq <= witness.seq)
    }

    /// Tells who waits, if what it is told is durable.
    fn release(&self, state: &mut State, place: usize) {
        let Node::Owns(owner) = &mut state.nodes[place] else { return };
        let durable = !owner.building && owner.in_flight.is_none() && owner.there.is_none();
        let Some(decision) = owner.memory.filter(|_| owner.asked) else { return };
        if !durable && !self.is(Bug::AnswerBeforeDurable) {
            return;
        }
        owner.asked = false;
        let witness = Witness { epoch: owner.epoch.mark, seq: owner.durable.seq };
        state.tell(decision, witness);
    }

    pub(super) fn seal(&self, state: &mut State, place: usize, snapshot: bool) {
        let Node::Owns(owner) = &mut state.nodes[place] else { return };
        let last = owner.last();
        owner.made += 1;
        let block = Block {
            seq: last.seq + 1,
            mark: owner.epoch.mark << 4 ^ last.seq << 2 ^ owner.made,
            previous: last.mark,
            kind: Kind::Data,
            epoch: owner.epoch.epoch,
            floor: owner.durable.floor.max(owner.snapshot),
            says: if snapshot || owner.building { owner.memory } else { None },
        };
        owner.building = false;
        owner.in_flight = Some(block);
        if snapshot {
            // Counts once the block is durable.
            owner.snapshot = block.seq;
        }
        state.offers.insert(Offer { block, looked: false, wrote: false, heard: true });
    }

    pub(super) fn trim(&self, state: &mut State, place: usize) {
        let Node::Owns(owner) = &mut state.nodes[place] else { return };
        owner.trimmed = true;
        let early = owner.in_flight.filter(|_| self.is(Bug::TrimBeforeSnapshot)).map(|block| block.seq);
        let floor = early.unwrap_or(owner.durable.floor);
        state.trims.insert(floor);
    }

    /// An append ended, and whoever sent it may still listen.
    pub(super) fn ended(&self, state: &mut State, offer: Offer, end: Appended) {
        if !offer.heard {
            return;
        }
        let block = offer.block;
        let is_mine = |node: &Node| match node {
            Node::Claims(offered) => *offered == block,
            Node::Owns(owner) => owner.in_flight == Some(block),
            _ => false,
        };
        let Some(place) = state.nodes.iter().position(is_mine) else { return };
        match (&mut state.nodes[place], end) {
            (node @ Node::Claims(_), Appended::Written) => *node = Node::Marked(block),
            // Its end is not known well enough: start over from what is there.
            (node, Appended::Conflict) | (node @ Node::Claims(_), Appended::AlreadyThere) => {
                *node = Node::Out;
            }
            (Node::Owns(owner), Appended::Written) => {
                owner.in_flight = None;
                owner.there = None;
                owner.durable = block;
                self.release(state, place);
            }
            (Node::Owns(owner), Appended::AlreadyThere) => {
                owner.in_flight = None;
                if self.is(Bug::AlreadyThereReleases) {
                    owner.durable = block;
                    self.release(state, place);
                } else {
                    owner.there = Some(block);
                }
            }
            _ => {}
        }
    }

    /// Planted: what cannot be seen was not written, and what can be seen was.
    pub(super) fn settle_by_read(&self, state: &mut State, block: Block) {
        if !self.is(Bug::SettledByRead) {
            return;
        }
        let is_there = state.rows.get(&block.seq).is_some_and(|row| row.block == block);
        let of_block = |node: &Node| matches!(node, Node::Owns(owner) if owner.in_flight == Some(block));
        let Some(place) = state.nodes.iter().position(of_block) else { return };
        let Node::Owns(owner) = &mut state.nodes[place] else { return };
        owner.in_flight = None;
        if is_there {
            owner.durable = block;
            return self.release(state, place);
        }
        // "It failed": the client takes that for an abort, and what was decided is forgotten.
        owner.memory = None;
        if std::mem::take(&mut owner.asked) {
            let witness = Witness { epoch: owner.epoch.mark, seq: owner.durable.seq };
            state.tell(Decision::Abort, witness);
        }
    }
}

impl State {
    fn tell(&mut self, decision: Decision, witness: Witness) {
        match self.told {
            Some((before, _)) if before != decision => self.told_both = true,
            _ => self.told = Some((decision, witness)),
        }
    }
}
