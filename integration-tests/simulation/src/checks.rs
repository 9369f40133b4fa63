//! The observers: what the log's blocks say, what participants' databases hold, and what clients were told,
//! each against the invariants I1 to I11 when it happens.

mod branches;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use unanimity_coordinator::engine::{LoggedEvent, PartitionEvent, decode};
use unanimity_coordinator::log::{Block, BlockKind, Checksum};
use unanimity_core::Event;
use unanimity_types::{AbortReason, BranchId, BranchKey, BranchKind, Decision, Epoch, PartitionId, Seq, Xid};

pub(crate) use self::branches::{Did, Effect};
use crate::hits::Hit;

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) hits: Vec<Hit>,
    pub(crate) violations: Vec<(Option<Xid>, String)>,
}

/// A decision in the log.
#[derive(Debug, Clone, Copy)]
struct Decided {
    decision: Decision,
    at: (PartitionId, Seq),
}

/// A branch in the log.
#[derive(Debug, Clone)]
struct Registered {
    key: BranchKey,
    kind: BranchKind,
    at: (PartitionId, Seq),
}

/// A partition's log as far as it was seen.
#[derive(Debug, Clone, Default)]
struct Chain {
    /// The next place.
    next: Seq,
    epoch: Epoch,
    closed: bool,
    /// What stood in each place, trimmed ones included.
    seen: BTreeMap<Seq, (Epoch, Checksum, BTreeSet<Xid>)>,
    /// The last block whose writer was told, by a database that had told its standby.
    acknowledged: Seq,
}

/// All that was observed.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    chains: Vec<Chain>,
    decided: BTreeMap<Xid, Decided>,
    registered: BTreeMap<Xid, BTreeMap<BranchId, Registered>>,
    delegated: BTreeSet<Xid>,
    planned: BTreeSet<Xid>,
    finished: BTreeSet<Xid>,
    told: BTreeMap<Xid, Decision>,
    effects: BTreeMap<Xid, BTreeMap<BranchKey, Effect>>,
    /// Steps by what comes before each.
    plans: BTreeMap<Xid, BTreeMap<BranchKey, Vec<BranchKey>>>,
    /// Those of which a ticket was shown, by their partition.
    ticketed: BTreeMap<PartitionId, Vec<Xid>>,
    /// What an acknowledged loss touched: nothing is promised about it.
    excused: BTreeSet<Xid>,
    /// Branches that an operator settled by hand.
    resolved: BTreeSet<(Xid, BranchKey)>,
    /// The database waits for a standby that is gone: nothing is acknowledged.
    pub(crate) stalled: bool,
    /// A failover is being made.
    pub(crate) failing_over: bool,
    /// Which database it is: grows with every failover.
    pub(crate) database_generation: u64,
    /// Whether an acknowledged loss happened.
    pub(crate) lost: bool,
    found: Found,
}

impl Checks {
    pub(crate) fn new(partitions: u16) -> Self {
        let chains = (0..partitions).map(|_| Chain::default()).collect();
        Self { chains, ..Self::default() }
    }

    pub(crate) fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    fn violation(&mut self, xid: Option<Xid>, why: impl Into<String>) {
        if xid.is_none_or(|xid| !self.excused.contains(&xid)) {
            self.found.violations.push((xid, why.into()));
        }
    }

    fn hit(&mut self, hit: Hit) {
        self.found.hits.push(hit);
    }

    pub(crate) fn next_of(&self, partition: PartitionId) -> Seq {
        self.chains[usize::from(partition.0)].next
    }

    pub(crate) fn decision(&self, xid: Xid) -> Option<Decision> {
        self.decided.get(&xid).map(|decided| decided.decision)
    }

    /// A transaction begins by a ticket: the log hears of it later.
    pub(crate) fn ticketed(&mut self, xid: Xid, partition: PartitionId) {
        self.ticketed.entry(partition).or_default().push(xid);
    }

    pub(crate) fn is_excused(&self, xid: Xid) -> bool {
        self.excused.contains(&xid)
    }

    /// A block that was not there before.
    pub(crate) fn block(&mut self, block: &Block) {
        let chain = &mut self.chains[usize::from(block.partition.0)];
        let (before, closed) = (chain.epoch, chain.closed);
        chain.next = block.seq.next();
        chain.closed = block.kind == BlockKind::Closing;
        let place = format!("p{} block {}", block.partition, block.seq);
        match block.kind {
            BlockKind::Birth => {}
            BlockKind::Epoch => {
                chain.epoch = block.epoch;
                if before > Epoch(0) {
                    self.hit(Hit::Takeover);
                    self.hit(if closed { Hit::TakeoverClean } else { Hit::TakeoverUnclean });
                }
                if block.epoch <= before {
                    self.violation(
                        None,
                        format!("I9: {place} goes back from epoch {before} to {}", block.epoch),
                    );
                }
            }
            BlockKind::Data | BlockKind::Closing if block.epoch != before => {
                self.violation(
                    None,
                    format!("I9: {place} was written by epoch {}, the owner is {before}", block.epoch),
                );
            }
            BlockKind::Data | BlockKind::Closing if closed => {
                self.violation(None, format!("I9: {place} follows a closing block and is no epoch block"));
            }
            _ => {}
        }
        let mut about = BTreeSet::new();
        if block.kind == BlockKind::Data {
            match decode(block) {
                Ok(records) => {
                    for record in records {
                        match record.what {
                            LoggedEvent::Transaction(xid, event) => {
                                about.insert(xid);
                                self.event((block.partition, block.seq), xid, &event);
                            }
                            LoggedEvent::Partition(event) => self.partition_event(&event),
                        }
                    }
                }
                Err(error) => self.violation(None, format!("{place} cannot be read: {error}")),
            }
        }
        let chain = &mut self.chains[usize::from(block.partition.0)];
        chain.seen.insert(block.seq, (block.epoch, block.checksum, about));
    }

    fn partition_event(&mut self, event: &PartitionEvent) {
        match event {
            PartitionEvent::LostTailFound { .. } => {
                self.hit(Hit::LostTailFound);
                if !self.lost {
                    self.violation(None, "H6: a loss was found, and nothing acknowledged was lost");
                }
            }
            PartitionEvent::LossAccepted { .. } => self.hit(Hit::LossAccepted),
            PartitionEvent::Lock(unanimity_core::LockEvent::Acquired { .. }) => self.hit(Hit::LockTaken),
            PartitionEvent::Lock(_) | PartitionEvent::Restored { .. } => {}
        }
    }

    fn event(&mut self, at: (PartitionId, Seq), xid: Xid, event: &Event) {
        match event {
            Event::Registered { branch_id, key, traits, .. } => {
                if self.decided.contains_key(&xid) {
                    self.violation(Some(xid), format!("I8: {key} registers after the decision"));
                }
                let branch = Registered { key: key.clone(), kind: traits.kind, at };
                let branches = self.registered.entry(xid).or_default();
                let twice =
                    branches.values().any(|other| other.key == *key) || branches.contains_key(branch_id);
                branches.insert(*branch_id, branch);
                if twice {
                    self.violation(
                        Some(xid),
                        format!("H8: {key} or its number {branch_id} is registered twice"),
                    );
                }
            }
            Event::PlanAccepted { .. } => drop(self.planned.insert(xid)),
            Event::Delegated { .. } => {
                self.hit(Hit::Delegated);
                self.delegated.insert(xid);
            }
            Event::Presumed => {
                self.hit(Hit::Presumed);
                self.decides(at, xid, Decision::Abort);
            }
            Event::Decided { decision, reason, .. } => {
                match reason {
                    Some(AbortReason::OwnerChanged) => self.hit(Hit::OwnerChanged),
                    Some(AbortReason::Deadline) => self.hit(Hit::DeadlineAbort),
                    Some(AbortReason::BranchMissing) => self.hit(Hit::BranchMissing),
                    Some(AbortReason::BranchNotVoted) => self.hit(Hit::BranchNotVoted),
                    Some(AbortReason::Operator) => self.hit(Hit::OperatorAbort),
                    _ => {}
                }
                self.decides(at, xid, *decision);
            }
            Event::BranchResolved { branch_id, .. } => {
                self.hit(Hit::OperatorResolve);
                let key = self.registered.get(&xid).and_then(|branches| branches.get(branch_id));
                if let Some(key) = key.map(|branch| branch.key.clone()) {
                    self.resolved.insert((xid, key));
                }
            }
            Event::RetryRequested { .. } => self.hit(Hit::OperatorRetry),
            Event::Snapshot(transaction) => {
                self.hit(Hit::Cleaned);
                let there = transaction.decision.as_ref().map(|record| record.decision);
                let known = self.decision(xid);
                if known != there && !(known.is_none() && self.excused.contains(&xid)) {
                    self.violation(
                        Some(xid),
                        format!("I3: cleaning writes it as {there:?}, the log had {known:?}"),
                    );
                }
            }
            Event::Finished => {
                self.finished.insert(xid);
                self.settled(xid);
            }
            _ => {}
        }
    }

    fn decides(&mut self, at: (PartitionId, Seq), xid: Xid, decision: Decision) {
        self.hit(if decision == Decision::Commit { Hit::Commit } else { Hit::Abort });
        if let Some(before) = self.decided.insert(xid, Decided { decision, at }) {
            self.violation(
                Some(xid),
                format!("I3: decided twice, {:?} in block {} and {decision:?}", before.decision, before.at.1),
            );
        }
        if let Some(told) = self.told.get(&xid).copied().filter(|told| *told != decision) {
            self.violation(
                Some(xid),
                format!("I4: a client was told {told:?} and now it is decided: {decision:?}"),
            );
        }
        if decision == Decision::Commit {
            self.commit_is_unanimous(xid);
        }
    }

    /// The rows that the database holds after a trim: what nobody saw being appended is not there (C7).
    pub(crate) fn rows(&mut self, partition: PartitionId, rows: &[Block]) {
        for row in rows {
            let seen = self.chains[usize::from(partition.0)].seen.get(&row.seq).map(|seen| seen.1);
            if seen != Some(row.checksum) {
                self.violation(
                    None,
                    format!("C7, I9: p{partition} block {} stands where another one was trimmed", row.seq),
                );
            }
        }
        let chain = &self.chains[usize::from(partition.0)];
        let kept: BTreeSet<Seq> = rows.iter().filter(|row| row.kind.is_kept()).map(|row| row.seq).collect();
        let mut epochs = BTreeMap::new();
        for (seq, (epoch, _, _)) in &chain.seen {
            epochs.entry(*epoch).or_insert(*seq);
        }
        let gone = epochs.values().find(|seq| !kept.contains(seq)).copied();
        if let Some(gone) = gone {
            self.violation(None, format!("C7: the epoch block {gone} of p{partition} was trimmed"));
        }
    }

    /// The database told the writer that it is durable, and with it all before.
    pub(crate) fn acknowledged(&mut self, block: &Block) {
        let chain = &mut self.chains[usize::from(block.partition.0)];
        let known = chain.seen.get(&block.seq).is_some_and(|seen| seen.1 == block.checksum);
        if known {
            chain.acknowledged = chain.acknowledged.max(block.seq);
        }
    }

    pub(crate) fn acknowledged_of(&self, partition: PartitionId) -> Seq {
        self.chains[usize::from(partition.0)].acknowledged
    }

    /// The database lost all above `last`. Answers how many blocks. If it had acknowledged them, what they
    /// were about is excused.
    pub(crate) fn loses(&mut self, partition: PartitionId, last: Seq, acknowledged: bool) -> usize {
        let chain = &mut self.chains[usize::from(partition.0)];
        let lost = chain.seen.split_off(&last.next());
        chain.next = last.next();
        chain.epoch = chain.seen.values().map(|seen| seen.0).max().unwrap_or_default();
        chain.closed = false;
        chain.acknowledged = chain.acknowledged.min(last);
        let lost_an_epoch = lost.values().any(|seen| seen.0 > chain.epoch);
        let gone = |at: &(PartitionId, Seq)| at.0 == partition && at.1 > last;
        if acknowledged {
            // History went back as well, and says nothing of what was in it.
            self.lost = true;
            self.excused
                .extend(self.chains.iter().flat_map(|chain| chain.seen.values()).flat_map(|seen| &seen.2));
            self.excused.extend(lost.values().flat_map(|seen| &seen.2));
            // A lost epoch block said that tickets from before begin nothing: who wrote it may have told their clients
            // so, and the owner before it is none the wiser.
            if lost_an_epoch {
                self.excused.extend(self.ticketed.get(&partition).into_iter().flatten());
            }
        }
        let undecided: Vec<Xid> =
            self.decided.iter().filter(|(_, decided)| gone(&decided.at)).map(|(xid, _)| *xid).collect();
        for xid in undecided {
            self.decided.remove(&xid);
            if self.told.get(&xid) == Some(&Decision::Commit) {
                self.violation(Some(xid), "C4, I3: a client was told Commit before it was acknowledged");
            }
        }
        for branches in self.registered.values_mut() {
            branches.retain(|_, branch| !gone(&branch.at));
        }
        lost.len()
    }
}
