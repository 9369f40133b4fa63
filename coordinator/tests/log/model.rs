//! Random sequences of operations against a reference model of one partition.
//!
//! Two owners, each with a view of its own of where the log ends, take over from one another, append,
//! offer again, race for one place, record floors, trim, and try what is not allowed. After every
//! step the log must have answered what the model says; at the end it must hold what the model holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use unanimity_coordinator::log::{Appended, Block, BlockKind, Error, TransactionLog};
use unanimity_types::{PartitionId, Seq};

use crate::subject::after;

/// Steps of one sequence, at most.
const STEPS_MAX: usize = 24;

#[derive(Default, Clone, Copy)]
struct Owner {
    /// The seq of the block after which this owner would append.
    view: u64,
    epoch: u64,
}

struct Model {
    log: Arc<dyn TransactionLog>,
    partition: PartitionId,
    random: Rng,
    rows: BTreeMap<u64, Block>,
    /// Every block that was ever durable or offered, for offers again.
    offered: Vec<Block>,
    /// The blocks that owners saw, by their views.
    seen: BTreeMap<u64, Block>,
    owners: [Owner; 2],
    /// The epoch of whoever claimed it last (protocol M22).
    claimed: Option<u64>,
    nonce: u64,
}

/// Runs one sequence on a partition that was just born. Answers how many steps it had.
pub(crate) async fn run(log: Arc<dyn TransactionLog>, partition: PartitionId, seed: u64) -> usize {
    let birth = log.read(partition).await.expect("a new partition").remove(0);
    let mut model = Model {
        log,
        partition,
        random: Rng::with_seed(seed),
        rows: BTreeMap::from([(0, birth.clone())]),
        offered: Vec::new(),
        seen: BTreeMap::from([(0, birth)]),
        owners: [Owner::default(); 2],
        claimed: None,
        nonce: seed,
    };
    let steps = model.random.usize(4..=STEPS_MAX);
    for _ in 0..steps {
        model.step().await;
    }
    model.check_read().await;
    steps
}

impl Model {
    async fn step(&mut self) {
        let who = self.random.usize(..2);
        match self.random.u32(..16) {
            0..=1 => self.take_over(who).await,
            2..=6 => self.append(who).await,
            7 => self.offer_again().await,
            8..=9 => self.race().await,
            10 => self.same_twice_at_once(who).await,
            11..=12 => self.trim().await,
            13 => self.nonsense().await,
            14 => self.check_places().await,
            _ => self.check_read().await,
        }
    }

    fn tip(&self) -> &Block {
        self.rows.last_key_value().expect("never empty").1
    }

    /// What the log must answer to this offer.
    fn expected(&self, block: &Block) -> Appended {
        match self.rows.get(&block.seq.0) {
            Some(there) if there.checksum == block.checksum => return Appended::AlreadyThere,
            Some(_) => return Appended::Conflict,
            None => {}
        }
        if self.tip().seq > block.seq {
            return Appended::Conflict;
        }
        match self.rows.get(&(block.seq.0 - 1)) {
            Some(before) if before.checksum != block.previous => Appended::Conflict,
            None => Appended::Conflict,
            Some(_) if block.kind == BlockKind::Epoch => Appended::Written,
            Some(_) if self.claimed.is_some_and(|claimed| claimed != block.epoch.0) => Appended::Conflict,
            Some(_) => Appended::Written,
        }
    }

    /// An epoch block says that it comes, wherever it ends, unless the log has reached its epoch.
    fn claim(&mut self, block: &Block) {
        if block.kind == BlockKind::Epoch && self.tip().epoch < block.epoch {
            self.claimed = Some(block.epoch.0);
        }
    }

    async fn offer(&mut self, block: Block) -> Appended {
        self.claim(&block);
        let expected = self.expected(&block);
        let answer = self.log.append(&block).await.expect("append");
        assert_eq!(answer, expected, "offer of {block:?}");
        self.record(&block, answer);
        answer
    }

    fn record(&mut self, block: &Block, answer: Appended) {
        if answer == Appended::Written {
            self.rows.insert(block.seq.0, block.clone());
            self.seen.insert(block.seq.0, block.clone());
        }
        self.offered.push(block.clone());
    }

    fn body(&mut self) -> Vec<u8> {
        self.nonce = self.nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.nonce.to_be_bytes().repeat(self.random.usize(..40))
    }

    async fn take_over(&mut self, who: usize) {
        self.check_read().await;
        let tip = self.tip().clone();
        let body = self.body();
        let block = after(&tip, BlockKind::Epoch, tip.epoch.0 + 1, tip.floor.0, &body);
        assert_eq!(self.offer(block.clone()).await, Appended::Written);
        self.owners[who] = Owner { view: block.seq.0, epoch: block.epoch.0 };
    }

    fn next_of(&mut self, who: usize) -> Option<Block> {
        let Owner { view, epoch } = self.owners[who];
        if epoch == 0 {
            return None;
        }
        let before = self.seen.get(&view)?.clone();
        let floor = if self.random.u32(..3) == 0 {
            self.random.u64(before.floor.0..=before.seq.next().0)
        } else {
            before.floor.0
        };
        let kind = if self.random.u32(..20) == 0 { BlockKind::Closing } else { BlockKind::Data };
        let body = self.body();
        Some(after(&before, kind, epoch, floor, &body))
    }

    /// The owner appends after its own view: the tip, or long since somebody else's.
    async fn append(&mut self, who: usize) {
        let Some(block) = self.next_of(who) else { return };
        let seq = block.seq.0;
        match self.offer(block).await {
            Appended::Written => self.owners[who].view = seq,
            // Deposed: it may try on for a while, as a paused owner does.
            Appended::Conflict | Appended::AlreadyThere => {}
        }
    }

    async fn offer_again(&mut self) {
        if self.offered.is_empty() {
            return;
        }
        let block = self.offered[self.random.usize(..self.offered.len())].clone();
        // Written once and trimmed since: it must not be written again into the freed place.
        self.offer(block).await;
    }

    /// Both want the same place: exactly one gets it, the other is told of the conflict.
    async fn race(&mut self) {
        let tip = self.tip().clone();
        let (one, two) = (self.body(), self.body());
        let one = after(&tip, BlockKind::Epoch, tip.epoch.0 + 1, tip.floor.0, &[&one[..], b"1"].concat());
        let two = after(&tip, BlockKind::Epoch, tip.epoch.0 + 1, tip.floor.0, &[&two[..], b"2"].concat());
        self.claim(&one);
        let (first, second) = tokio::join!(self.log.append(&one), self.log.append(&two));
        let (first, second) = (first.expect("append"), second.expect("append"));
        let winner = match (first, second) {
            (Appended::Written, Appended::Conflict) => 0,
            (Appended::Conflict, Appended::Written) => 1,
            other => panic!("two owners fought for block {} and got {other:?}", one.seq),
        };
        self.record(&one, first);
        self.record(&two, second);
        self.owners[winner] = Owner { view: one.seq.0, epoch: one.epoch.0 };
    }

    async fn same_twice_at_once(&mut self, who: usize) {
        let Some(block) = self.next_of(who) else { return };
        let expected = self.expected(&block);
        let (first, second) = tokio::join!(self.log.append(&block), self.log.append(&block));
        let mut answers = [first.expect("append"), second.expect("append")];
        if expected == Appended::Written {
            if answers[0] == Appended::AlreadyThere {
                answers.swap(0, 1);
            }
            assert_eq!(answers, [Appended::Written, Appended::AlreadyThere]);
            self.owners[who].view = block.seq.0;
        } else {
            assert_eq!(answers, [expected, expected]);
        }
        self.record(&block, answers[0]);
    }

    async fn trim(&mut self) {
        let recorded = self.tip().floor.0;
        if self.random.u32(..4) == 0 {
            let above = self.log.trim(self.partition, Seq(recorded + 1)).await;
            assert!(matches!(above, Err(Error::Refused(_))), "H17: {above:?}");
        }
        let floor = self.random.u64(..=recorded);
        let before = self.rows.len();
        self.rows.retain(|seq, block| *seq >= floor || block.kind.is_kept());
        let deleted = self.log.trim(self.partition, Seq(floor)).await.expect("trim");
        assert_eq!(deleted, (before - self.rows.len()) as u64);
    }

    async fn nonsense(&mut self) {
        let tip = self.tip().clone();
        // After a gap, after a block that never was, over an existing place, damaged.
        let gap = after(&after(&tip, BlockKind::Data, tip.epoch.0, 0, b"gap"), BlockKind::Data, 1, 0, b"");
        self.offer(gap).await;
        let mut forged = tip.clone();
        forged.body = bytes::Bytes::from_static(b"forged");
        let forged = after(&forged, BlockKind::Data, tip.epoch.0, tip.floor.0, b"");
        let mut stranger = forged.clone();
        stranger.previous.0[0] ^= 1;
        let refused = self.log.append(&stranger).await;
        assert!(
            matches!(refused, Err(Error::Refused(_))),
            "a wrong checksum is not made durable: {refused:?}"
        );
        if let Some(before) = self.rows.get(&(tip.seq.0.saturating_sub(1))).cloned() {
            let over = after(&before, BlockKind::Epoch, 1 << 40, 0, b"over");
            self.offer(over).await;
        }
    }

    async fn check_places(&mut self) {
        let tip = self.tip().clone();
        let found = self.log.tip(self.partition).await.expect("tip");
        assert_eq!(
            (found.seq, found.epoch, found.checksum, found.time),
            (tip.seq, tip.epoch, tip.checksum, tip.time)
        );
        let seq = self.random.u64(..=tip.seq.0 + 1);
        let block = self.log.block_at(self.partition, Seq(seq)).await.expect("block_at");
        assert_eq!(block.as_ref(), self.rows.get(&seq));
    }

    async fn check_read(&mut self) {
        let floor = self.tip().floor.0;
        let expected: Vec<&Block> =
            self.rows.values().filter(|block| block.seq.0 >= floor || block.kind.is_kept()).collect();
        let found = self.log.read(self.partition).await.expect("read");
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }
}
