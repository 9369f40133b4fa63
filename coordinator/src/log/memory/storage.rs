//! What the memory log holds, and each step that happens to it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{Epoch, LogId, PartitionId, Seq, Timestamp, Xid};

use super::nodes::Nodes;
use crate::log::{
    Appended, Block, BlockKind, ClusterView, Error, HOME_SERVER, HistoryBatch, HistoryFilter, HistoryKept,
    HistoryPage, HistoryRow, HistoryWatermark, Lease, NodeBeat, PartitionRow, chain, rules,
};

type Blocks = BTreeMap<Seq, Block>;

#[derive(Debug, Clone)]
pub(super) struct Storage {
    partitions: Vec<Partition>,
    nodes: Nodes,
    history: BTreeMap<Xid, HistoryRow>,
    history_floor: Timestamp,
    /// How far the clock was moved by hand.
    pub(super) advanced: Duration,
    /// What a partition that does not exist has.
    none: Blocks,
}

#[derive(Debug, Clone, Default)]
struct Partition {
    blocks: Blocks,
    lease: Option<LeaseRow>,
    watermark: HistoryWatermark,
    /// Of whoever claimed it last: a hint (protocol M22).
    claimed: Option<Epoch>,
}

#[derive(Debug, Clone)]
struct LeaseRow {
    owner: String,
    address: String,
    until: Timestamp,
}

impl Storage {
    pub(super) fn born(partitions: u16, log_id: LogId, at: Timestamp) -> Self {
        let partitions = (0..partitions).map(|number| {
            let block = Block::birth(PartitionId(number), log_id, at);
            Partition { blocks: BTreeMap::from([(block.seq, block)]), ..Partition::default() }
        });
        Self {
            partitions: partitions.collect(),
            nodes: Nodes::default(),
            history: BTreeMap::new(),
            history_floor: Timestamp(0),
            advanced: Duration::ZERO,
            none: Blocks::new(),
        }
    }

    pub(super) fn blocks(&self, partition: PartitionId) -> &Blocks {
        self.partitions.get(usize::from(partition.0)).map_or(&self.none, |partition| &partition.blocks)
    }

    pub(super) fn blocks_mut(&mut self, partition: PartitionId) -> &mut Blocks {
        match self.partitions.get_mut(usize::from(partition.0)) {
            Some(partition) => &mut partition.blocks,
            None => &mut self.none,
        }
    }

    /// Whether the block would be the next one: its predecessor is there and is the last.
    pub(super) fn is_next(&self, block: &Block) -> bool {
        if mutant::is(Mutant::TakenSeqIgnored) {
            return true;
        }
        if self.blocks(block.partition).range(block.seq.next()..).next().is_some() {
            return false;
        }
        let before = block.seq.0.checked_sub(1).map(Seq);
        let before = before.and_then(|seq| self.blocks(block.partition).get(&seq));
        before.is_some_and(|before| before.checksum == block.previous)
    }

    /// Notes that the block's epoch is to come, unless the log has reached it.
    pub(super) fn claim(&mut self, block: &Block) {
        let tip = self.blocks(block.partition).last_key_value().map(|(_, tip)| tip.epoch);
        if tip.is_some_and(|tip| tip < block.epoch)
            && let Some(partition) = self.partitions.get_mut(usize::from(block.partition.0))
        {
            partition.claimed = Some(block.epoch);
        }
    }

    /// Whether nobody claimed the partition for another epoch.
    pub(super) fn is_claimed_for(&self, block: &Block) -> bool {
        let claimed = self.partitions.get(usize::from(block.partition.0)).and_then(|known| known.claimed);
        block.kind == BlockKind::Epoch || claimed.is_none_or(|claimed| claimed == block.epoch)
    }

    /// Writes the block if its place is free.
    pub(super) fn take_place(&mut self, block: &Block) -> Appended {
        let blocks = self.blocks_mut(block.partition);
        if blocks.contains_key(&block.seq) && !mutant::is(Mutant::TakenSeqIgnored) {
            return self.settle(block);
        }
        blocks.insert(block.seq, block.clone());
        Appended::Written
    }

    /// What became of an append that did not write.
    pub(super) fn settle(&self, block: &Block) -> Appended {
        match self.blocks(block.partition).get(&block.seq) {
            Some(there) if there.checksum == block.checksum => Appended::AlreadyThere,
            Some(_) | None => Appended::Conflict,
        }
    }

    /// Only what a durable block records as not needed may go (protocol H17).
    pub(super) fn check_trim(&self, partition: PartitionId, floor: Seq) -> Result<(), Error> {
        let tip = self.blocks(partition).last_key_value().map(|(_, block)| block);
        let recorded = tip.ok_or_else(|| chain::never_born(partition))?.floor;
        if floor > recorded { Err(rules::trim_above_floor(partition, floor, recorded)) } else { Ok(()) }
    }

    /// Deletes the first row below the floor that may go; answers whether there was one.
    pub(super) fn delete_first(&mut self, partition: PartitionId, floor: Seq) -> bool {
        let blocks = self.blocks_mut(partition);
        let first = blocks
            .range(..floor)
            .find(|(_, block)| {
                !block.kind.is_kept()
                    || block.kind == BlockKind::Epoch && mutant::is(Mutant::TrimDeletesEpochBlock)
            })
            .map(|(seq, _)| *seq);
        first.is_some_and(|seq| blocks.remove(&seq).is_some())
    }

    pub(super) fn lease(
        &mut self,
        partition: PartitionId,
        node: &str,
        address: &str,
        now: Timestamp,
        duration: Duration,
    ) -> Result<Lease, Error> {
        let row = self.partitions.get_mut(usize::from(partition.0));
        let row = &mut row.ok_or_else(|| rules::no_partition(partition))?.lease;
        if let Some(other) = row.as_ref().filter(|row| row.owner != node && row.until > now) {
            return Ok(Lease {
                held: false,
                owner: other.owner.clone(),
                address: other.address.clone(),
                remaining: other.until.since(now),
            });
        }
        *row = Some(LeaseRow {
            owner: node.to_owned(),
            address: address.to_owned(),
            until: now.after(duration),
        });
        Ok(Lease { held: true, owner: node.to_owned(), address: address.to_owned(), remaining: duration })
    }

    pub(super) fn release(&mut self, partition: PartitionId, node: &str) {
        if let Some(partition) = self.partitions.get_mut(usize::from(partition.0)) {
            partition.lease.take_if(|row| row.owner == node);
        }
    }

    pub(super) fn hand_over(
        &mut self,
        partition: PartitionId,
        node: &str,
        to: &str,
        address: &str,
        until: Timestamp,
    ) -> bool {
        let row = self.partitions.get_mut(usize::from(partition.0)).and_then(|row| row.lease.as_mut());
        let Some(row) = row.filter(|row| row.owner == node) else { return false };
        *row = LeaseRow { owner: to.to_owned(), address: address.to_owned(), until };
        true
    }

    pub(super) fn heartbeat(
        &mut self,
        beat: &NodeBeat,
        now: Timestamp,
        duration: Duration,
    ) -> Result<ClusterView, Error> {
        let (nodes, format) = self.nodes.beat(beat, now, duration)?;
        let partitions = (0..).map(PartitionId).zip(&self.partitions).map(|(number, partition)| {
            let lease = partition.lease.as_ref();
            PartitionRow {
                partition: number,
                owner: lease.map(|lease| lease.owner.clone()),
                address: lease.map(|lease| lease.address.clone()),
                remaining: lease.map_or(Duration::ZERO, |lease| lease.until.since(now)),
                server: HOME_SERVER.to_owned(),
            }
        });
        Ok(ClusterView { nodes, partitions: partitions.collect(), format })
    }

    pub(super) fn set_draining(&mut self, node: &str, draining: bool) -> bool {
        self.nodes.set_draining(node, draining)
    }

    pub(super) fn write_history(&mut self, batch: HistoryBatch) -> Result<(), Error> {
        let (seq, checksum) = batch.line;
        if self.blocks(batch.partition).get(&seq).is_none_or(|block| block.checksum != checksum) {
            return Err(rules::not_on_this_line(batch.partition, seq));
        }
        for row in batch.rows {
            let row = rules::storable(row);
            if self.history.get(&row.xid).is_none_or(|old| rules::replaces(old, &row)) {
                self.history.insert(row.xid, row);
            }
        }
        if let Some(partition) = self.partitions.get_mut(usize::from(batch.partition.0)) {
            let (old, new) = (&mut partition.watermark, batch.watermark);
            if (new.epoch, new.seq) > (old.epoch, old.seq) {
                *old = new;
            }
        }
        Ok(())
    }

    pub(super) fn watermark(&self, partition: PartitionId) -> HistoryWatermark {
        self.partitions.get(usize::from(partition.0)).map(|partition| partition.watermark).unwrap_or_default()
    }

    pub(super) fn find_history(&self, xids: &[Xid]) -> Vec<HistoryRow> {
        let distinct: std::collections::BTreeSet<_> = xids.iter().collect();
        distinct.into_iter().filter_map(|xid| self.history.get(xid)).cloned().collect()
    }

    pub(super) const fn history_floor(&self) -> Timestamp {
        self.history_floor
    }

    pub(super) fn keep_history(&mut self, cut: Timestamp) -> HistoryKept {
        self.history_floor = self.history_floor.max(cut);
        self.history.retain(|_, row| row.finished_at.is_none_or(|at| at >= cut));
        HistoryKept { floor: self.history_floor, more: false }
    }

    pub(super) fn list_history(&self, filter: &HistoryFilter) -> HistoryPage {
        let limit = rules::page_limit(filter);
        let mut rows: Vec<_> = self.history.values().filter(|row| matches(filter, row)).collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.begun_at, row.xid)));
        HistoryPage {
            more: rows.len() > limit,
            rows: rows.into_iter().take(limit).map(rules::brief).collect(),
        }
    }
}

fn matches(filter: &HistoryFilter, row: &HistoryRow) -> bool {
    filter.status.is_none_or(|status| row.status == status)
        && filter.mode.is_none_or(|mode| row.mode == Some(mode))
        && filter.name.as_ref().is_none_or(|name| row.name == *name)
        && filter.participant.as_ref().is_none_or(|name| row.participants.contains(name))
        && filter.begun_before.is_none_or(|moment| row.begun_at < moment)
        && (!filter.attention || row.attention.is_some())
        && filter.after.is_none_or(|after| (row.begun_at, row.xid) < after)
}
