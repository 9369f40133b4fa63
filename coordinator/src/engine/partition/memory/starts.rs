//! Where in the log the entries begin: the floor is the least of it (protocol H17).

use std::collections::BTreeMap;

use unanimity_types::{Seq, Xid};

/// The entries by the block that each of them needs first. Touched when one comes, moves or goes, and
/// then only at one block.
#[derive(Debug, Default)]
pub(super) struct Starts {
    blocks: BTreeMap<Seq, Start>,
}

/// Those that begin in one block.
#[derive(Debug, Default)]
struct Start {
    /// Also some that went meanwhile.
    xids: Vec<Xid>,
    /// How many are still here.
    here: usize,
}

impl Starts {
    pub(super) fn add(&mut self, seq: Seq, xid: Xid) {
        let start = self.blocks.entry(seq).or_default();
        start.xids.push(xid);
        start.here += 1;
    }

    /// One that began there does not any more.
    pub(super) fn remove(&mut self, seq: Seq) {
        let Some(start) = self.blocks.get_mut(&seq) else { return };
        start.here -= 1;
        if start.here == 0 {
            self.blocks.remove(&seq);
        }
    }

    /// The least block that somebody needs.
    pub(super) fn first(&self) -> Option<Seq> {
        self.blocks.keys().next().copied()
    }

    /// Somebody who needs the oldest block, if that lies below `cut`. `begins_at` knows who really does.
    pub(super) fn oldest_below(&mut self, cut: Seq, begins_at: impl Fn(Xid) -> Option<Seq>) -> Option<Xid> {
        let (seq, start) = self.blocks.iter_mut().next().filter(|(seq, _)| **seq < cut)?;
        while let Some(xid) = start.xids.last() {
            if begins_at(*xid) == Some(*seq) {
                return Some(*xid);
            }
            start.xids.pop();
        }
        None
    }
}
