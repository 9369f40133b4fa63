//! Gathering offers: several partitions' blocks in one write.
//!
//! ```text
//!  append p3 ─┐                     ┌─▶ crowd: all that wait, one block of each partition, in one write
//!  append p1 ─┼─▶ waiting (bounded) ┤
//!  append p7 ─┘                     └─▶ alone: one block in one write, after trouble
//! ```
//!
//! While a write is under way offers gather; the next write takes them together, ordered by partition,
//! so that two nodes never wait for each other crosswise. What a write of many says holds for each of
//! them as protocol H18 has it:
//!
//! - a partition whose block was not written is its own affair: it is offered *alone*, where the reason is found;
//! - a definite error is blamed on nobody: each is offered alone;
//! - an unknown outcome is unknown to all. Each caller offers its block again (C4), alone until it has an
//!   answer, so that one whose place is being fought over holds up nobody else a second time.
//!
//! Writes run in tasks of their own: a caller that is dropped takes no offer back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use unanimity_types::PartitionId;

use super::{Appended, Block, Error};

/// Offers that may wait. An engine has one under way for each of its partitions, of which there are at
/// most 4,096; the rest is room for offers whose callers were dropped.
const WAITING_MAX: usize = 8_192;

/// Blocks of one write: with so many the share that each has in one flush is below a hundredth.
const CROWD_BLOCKS_MAX: usize = 128;

/// Bytes of one write, if it has more than one block: an answer for a small block does not wait for
/// tens of megabytes of others.
const CROWD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Writes blocks, however few or many.
pub(super) trait BlockWriter: Send + Sync + 'static {
    /// Writes blocks of different partitions, ascending by partition, each on its own condition.
    /// Answers the partitions whose block was written.
    fn write_many(
        &self,
        blocks: &[&Block],
    ) -> impl Future<Output = Result<Vec<PartitionId>, CrowdError>> + Send;

    /// Writes one block and finds out why if it cannot.
    fn write_one(&self, block: &Block) -> impl Future<Output = Result<Appended, Error>> + Send;
}

/// Why a write of many failed as a whole.
#[derive(Debug)]
pub(super) enum CrowdError {
    /// Nothing was sent, for a reason that has nothing to do with the blocks.
    NotSent(Error),
    /// Nothing was written; perhaps one of the blocks is to blame.
    Failed,
    /// Nobody knows what was written.
    Unknown(String),
}

impl CrowdError {
    /// What an error during the write says.
    pub(super) fn during(error: Error) -> Self {
        match error {
            Error::Unknown(text) => Self::Unknown(text),
            _ => Self::Failed,
        }
    }
}

struct Offer {
    block: Block,
    answer: oneshot::Sender<Result<Appended, Error>>,
}

impl Offer {
    fn settle(self, answer: Result<Appended, Error>) {
        // The caller may be gone.
        let _ = self.answer.send(answer);
    }
}

#[derive(Clone, Copy, Debug)]
enum Lane {
    Crowd,
    Alone,
}

/// Offers of one kind and how many tasks write them.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Offer>,
    writers: usize,
    writers_max: usize,
}

struct State {
    crowd: Queue,
    alone: Queue,
    /// Partitions that are offered alone, because the outcome of their last offer is unknown.
    suspects: BTreeSet<PartitionId>,
}

impl State {
    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Crowd => &mut self.crowd,
            Lane::Alone => &mut self.alone,
        }
    }
}

/// The offers of one log.
pub(super) struct Gather<W> {
    writer: W,
    state: Mutex<State>,
}

impl<W: BlockWriter> Gather<W> {
    /// At most `crowds` writes of many and `alone` writes of one are under way at once.
    pub(super) fn new(writer: W, crowds: usize, alone: usize) -> Arc<Self> {
        let queue = |writers_max: usize| Queue { writers_max: writers_max.max(1), ..Queue::default() };
        let state = State { crowd: queue(crowds), alone: queue(alone), suspects: BTreeSet::new() };
        Arc::new(Self { writer, state: Mutex::new(state) })
    }

    /// Who writes.
    pub(super) const fn writer(&self) -> &W {
        &self.writer
    }

    /// Offers a block and waits for what becomes of it. Dropped while it waits, the offer goes on.
    pub(super) async fn append(self: Arc<Self>, block: Block) -> Result<Appended, Error> {
        let (answer, settled) = oneshot::channel();
        self.push(Offer { block, answer });
        drop(self);
        settled.await.unwrap_or_else(|_| {
            // A bug in the write, or the runtime is shutting down: what was sent is sent.
            Err(Error::Unknown("the write's task ended early".to_owned()))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, offer: Offer) {
        let state = self.state();
        if state.crowd.waiting.len() + state.alone.waiting.len() >= WAITING_MAX {
            drop(state);
            offer.settle(Err(Error::Unavailable(format!("{WAITING_MAX} blocks wait to be written"))));
            return;
        }
        let is_suspect = state.suspects.contains(&offer.block.partition);
        let lane = if is_suspect { Lane::Alone } else { Lane::Crowd };
        self.enqueue(state, lane, [offer]);
    }

    /// Puts offers into a lane and sees to it that somebody writes them.
    fn enqueue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        lane: Lane,
        offers: impl IntoIterator<Item = Offer>,
    ) {
        let queue = state.queue(lane);
        queue.waiting.extend(offers);
        let wanted = match lane {
            // What waits goes in one write: one more is enough.
            Lane::Crowd => queue.waiting.len().min(1),
            Lane::Alone => queue.waiting.len(),
        };
        for _ in 0..wanted.min(queue.writers_max - queue.writers) {
            queue.writers += 1;
            let turn = Turn { gather: Arc::clone(self), lane, ended: false };
            tokio::spawn(turn.run());
        }
    }

    async fn write_crowd(self: &Arc<Self>, mut crowd: BTreeMap<PartitionId, Offer>) {
        let blocks: Vec<&Block> = crowd.values().map(|offer| &offer.block).collect();
        match self.writer.write_many(&blocks).await {
            Ok(written) => {
                for partition in written {
                    if let Some(offer) = crowd.remove(&partition) {
                        offer.settle(Ok(Appended::Written));
                    }
                }
                self.enqueue(self.state(), Lane::Alone, crowd.into_values());
            }
            Err(CrowdError::Failed) => self.enqueue(self.state(), Lane::Alone, crowd.into_values()),
            Err(CrowdError::NotSent(error)) => {
                for offer in crowd.into_values() {
                    offer.settle(Err(error.clone()));
                }
            }
            Err(CrowdError::Unknown(text)) => {
                self.state().suspects.extend(crowd.keys());
                for offer in crowd.into_values() {
                    offer.settle(Err(Error::Unknown(text.clone())));
                }
            }
        }
    }

    async fn write_alone(&self, offer: Offer) {
        let answer = self.writer.write_one(&offer.block).await;
        {
            let mut state = self.state();
            match &answer {
                Ok(_) => state.suspects.remove(&offer.block.partition),
                Err(Error::Unknown(_)) => state.suspects.insert(offer.block.partition),
                Err(_) => false,
            };
        }
        offer.settle(answer);
    }
}

/// A task that writes until nothing waits in its lane.
struct Turn<W: BlockWriter> {
    gather: Arc<Gather<W>>,
    lane: Lane,
    ended: bool,
}

impl<W: BlockWriter> Turn<W> {
    async fn run(mut self) {
        while let Some(mut crowd) = self.next() {
            match (self.lane, crowd.len()) {
                (Lane::Crowd, 2..) => self.gather.write_crowd(crowd).await,
                _ => {
                    if let Some((_, offer)) = crowd.pop_first() {
                        self.gather.write_alone(offer).await;
                    }
                }
            }
        }
    }

    /// What to write next. If there is nothing the turn ends, in the same moment for everybody.
    fn next(&mut self) -> Option<BTreeMap<PartitionId, Offer>> {
        let mut state = self.gather.state();
        let queue = state.queue(self.lane);
        let crowd = match self.lane {
            Lane::Crowd => take_crowd(&mut queue.waiting),
            Lane::Alone => {
                queue.waiting.pop_front().into_iter().map(|offer| (offer.block.partition, offer)).collect()
            }
        };
        if crowd.is_empty() {
            queue.writers -= 1;
            self.ended = true;
            return None;
        }
        Some(crowd)
    }
}

impl<W: BlockWriter> Drop for Turn<W> {
    fn drop(&mut self) {
        // Only if the task was ended from outside: its place must not be lost.
        if !self.ended {
            self.gather.state().queue(self.lane).writers -= 1;
        }
    }
}

/// The oldest offers, within the bounds; of each partition the oldest only.
fn take_crowd(waiting: &mut VecDeque<Offer>) -> BTreeMap<PartitionId, Offer> {
    let mut crowd = BTreeMap::new();
    let mut bytes = 0;
    let mut later = VecDeque::new();
    while let Some(offer) = waiting.pop_front() {
        let size = offer.block.bytes();
        let full = crowd.len() == CROWD_BLOCKS_MAX || (!crowd.is_empty() && bytes + size > CROWD_BYTES_MAX);
        if full {
            later.push_back(offer);
            break;
        }
        if crowd.contains_key(&offer.block.partition) {
            later.push_back(offer);
            continue;
        }
        bytes += size;
        crowd.insert(offer.block.partition, offer);
    }
    later.append(waiting);
    *waiting = later;
    crowd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{BlockHeader, BlockKind, Checksum};
    use bytes::Bytes;
    use unanimity_types::{Epoch, Seq, Timestamp};

    fn offer(partition: u16, seq: u64, bytes: usize) -> Offer {
        let header = BlockHeader {
            kind: BlockKind::Data,
            partition: PartitionId(partition),
            seq: Seq(seq),
            epoch: Epoch(1),
            floor: Seq(0),
            time: Timestamp(1),
            previous: Checksum::default(),
        };
        let (answer, _) = oneshot::channel();
        Offer { block: Block::new(header, Bytes::from(vec![0; bytes])), answer }
    }

    fn crowds(offers: impl IntoIterator<Item = Offer>) -> Vec<Vec<(u16, u64)>> {
        let mut waiting: VecDeque<Offer> = offers.into_iter().collect();
        let mut crowds = Vec::new();
        while !waiting.is_empty() {
            let crowd = take_crowd(&mut waiting);
            assert!(!crowd.is_empty(), "it goes on");
            crowds.push(crowd.into_values().map(|o| (o.block.partition.0, o.block.seq.0)).collect());
        }
        crowds
    }

    #[test]
    fn h18_a_crowd_is_ordered_and_has_one_block_of_a_partition() {
        let offers = [offer(7, 1, 10), offer(3, 5, 10), offer(7, 2, 10), offer(1, 1, 10), offer(7, 3, 10)];
        assert_eq!(crowds(offers), [vec![(1, 1), (3, 5), (7, 1)], vec![(7, 2)], vec![(7, 3)]]);
    }

    #[test]
    fn a_crowd_is_bounded_in_blocks_and_bytes_and_takes_any_block_alone() {
        let many = (0..300).map(|partition| offer(partition, 1, 1));
        let sizes: Vec<usize> = crowds(many).iter().map(Vec::len).collect();
        assert_eq!(sizes, [CROWD_BLOCKS_MAX, CROWD_BLOCKS_MAX, 44]);
        let third = CROWD_BYTES_MAX / 3;
        let large = [offer(1, 1, third), offer(2, 1, third), offer(3, 1, third), offer(4, 1, 9 * third)];
        assert_eq!(crowds(large), [vec![(1, 1), (2, 1)], vec![(3, 1)], vec![(4, 1)]]);
    }
}
