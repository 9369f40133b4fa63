//! The database's table of blocks, and what happens to it at once.

use unanimity_types::Decision;

use super::{Append, Bug, State};

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The first one.
    Birth,
    /// A new owner's mark.
    Epoch,
    /// Events.
    Data,
}

/// A block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Its place.
    pub seq: u8,
    /// Stands for its checksum.
    pub mark: u8,
    /// The mark of the block before.
    pub previous: u8,
    /// What it is for.
    pub kind: Kind,
    /// Whose it is.
    pub epoch: u8,
    /// Nothing below is needed.
    pub floor: u8,
    /// The decision that it holds: as an event, or written again by cleaning.
    pub says: Option<Decision>,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// What it holds.
    pub block: Block,
    /// Whether the standby has it.
    pub safe: bool,
}

/// An append on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offer {
    /// What is offered.
    pub block: Block,
    /// It has seen its predecessor, as the last block.
    pub looked: bool,
    /// It has taken its place, and waits for the standby.
    pub wrote: bool,
    /// Somebody waits for its answer.
    pub heard: bool,
}

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    Written,
    AlreadyThere,
    Conflict,
}

impl State {
    /// The last block.
    #[must_use]
    pub fn tip(&self) -> Block {
        self.rows.last_key_value().map(|(_, row)| row.block).expect("a log is born with a block")
    }

    fn settled(&self, block: &Block) -> Appended {
        match self.rows.get(&block.seq) {
            Some(row) if row.block.mark == block.mark => Appended::AlreadyThere,
            Some(_) | None => Appended::Conflict,
        }
    }
}

impl Append {
    /// The first half of an append.
    pub(super) fn look(&self, state: &mut State, offer: Offer) {
        state.offers.remove(&offer);
        let tip = state.tip();
        let is_next = tip.seq + 1 == offer.block.seq && tip.mark == offer.block.previous;
        if is_next || self.is(Bug::NoCondition) {
            state.offers.insert(Offer { looked: true, ..offer });
        } else {
            let end = state.settled(&offer.block);
            self.ended(state, offer, end);
        }
    }

    /// The second half: takes the place if it is free, whatever became of the predecessor.
    pub(super) fn take(&self, state: &mut State, offer: Offer) {
        state.offers.remove(&offer);
        let seq = offer.block.seq;
        if state.rows.contains_key(&seq) && !self.is(Bug::TakenSeqOverwritten) {
            let end = state.settled(&offer.block);
            return self.ended(state, offer, end);
        }
        state.rows.insert(seq, Row { block: offer.block, safe: false });
        state.offers.insert(Offer { wrote: true, ..offer });
    }

    /// The standby has it, and so it has all before it.
    pub(super) fn acknowledge(&self, state: &mut State, offer: Offer) {
        state.offers.remove(&offer);
        for (_, row) in state.rows.range_mut(..=offer.block.seq) {
            row.safe = true;
        }
        self.ended(state, offer, Appended::Written);
    }

    /// One more row goes.
    pub(super) fn delete(&self, state: &mut State, floor: u8) {
        let keeps = |kind| kind == Kind::Birth || kind == Kind::Epoch && !self.is(Bug::TrimDeletesEpochs);
        let first = state.rows.range(..floor).find(|(_, row)| !keeps(row.block.kind)).map(|(seq, _)| *seq);
        match first {
            Some(seq) => drop(state.rows.remove(&seq)),
            None => drop(state.trims.remove(&floor)),
        }
    }

    /// The standby becomes the primary: what it does not have is gone, and so is every connection.
    pub(super) fn failover(&self, state: &mut State) {
        state.failovers += 1;
        state.rows.retain(|_, row| row.safe);
        for _ in 0..self.config.lost {
            if state.rows.len() > 1 {
                state.rows.pop_last();
            }
        }
        // Nobody hears anything any more: the outcome of what was on its way is unknown.
        state.offers.clear();
        state.trims.clear();
    }
}
