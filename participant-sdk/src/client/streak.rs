//! New xids, several in a row of one partition.
//!
//! A block holds what one partition does. Transactions of one process that begin at about the same time are
//! written in fewer blocks if they are of one partition, so xids are minted in streaks. Streaks are short and their
//! partitions drawn by lot, so that all partitions, and the nodes that own them, have the same share.
//!
//! They are of version 7: what began together lies together in every index over xids, the coordinator's
//! history and the participants' fences, however large it is. Who may decide does not hang on guessing one: a
//! transaction begun without a call has a secret for that.

use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::{PartitionId, Xid, partition_of};
use uuid::Uuid;

/// How long a streak lasts: longer than a transaction's decision and phase two at best, so that the end of one
/// shares a block with the decision of the next even if a process does one after the other.
const STREAK_FOR: Duration = Duration::from_millis(20);
/// Xids of a streak: a process that begins tens of thousands in a second uses several partitions at a time.
const STREAK_XIDS: u32 = 256;
/// Xids looked at for each partition that the log has, on average. With so many one in 3,000 finds none of its streak.
const LOOKS: u32 = 8;
/// Xids looked at in any case: some 2 µs. With more than 64 partitions streaks have gaps.
const LOOKS_MAX: u32 = 512;

/// Where new xids go.
#[derive(Debug, Default)]
pub(super) struct Streak {
    now: Option<Now>,
}

#[derive(Debug)]
struct Now {
    partition: PartitionId,
    partitions: u16,
    began: Instant,
    left: u32,
}

impl Streak {
    /// A random xid, of the streak's partition if one is found soon; of any if `partitions` is 0. A streak begins in a
    /// partition that `is_good`, and ends when it is no more, if there is a good one.
    pub(super) fn mint(&mut self, partitions: u16, is_good: impl Fn(PartitionId) -> bool) -> Xid {
        let first = Uuid::now_v7();
        if partitions == 0 {
            return Xid::new(first);
        }
        let before = self
            .now
            .take()
            .filter(|now| now.partitions == partitions && now.left > 0 && now.began.elapsed() < STREAK_FOR);
        let now = match before {
            Some(now) if is_good(now.partition) => now,
            before => {
                // The first xid of a streak is any in a good partition: that is the lot.
                let homes =
                    (0..LOOKS_MAX).map(|step| partition_of(Xid::new(neighbour(first, step)), partitions));
                let began =
                    |partition| Now { partition, partitions, began: Instant::now(), left: STREAK_XIDS };
                let good = homes.into_iter().find(|partition| is_good(*partition)).map(began);
                good.or(before).unwrap_or_else(|| began(partition_of(Xid::new(first), partitions)))
            }
        };
        let looks = (u32::from(partitions) * LOOKS).min(LOOKS_MAX);
        let xid = (0..looks)
            .map(|step| Xid::new(neighbour(first, step)))
            .find(|xid| partition_of(*xid, partitions) == now.partition)
            .unwrap_or(Xid::new(first));
        self.now = Some(Now { left: now.left - 1, ..now });
        xid
    }
}

/// The uuid that is `step` further in its last 32 bits, which are random.
fn neighbour(uuid: Uuid, step: u32) -> Uuid {
    let bits = uuid.as_u128();
    let low = (bits as u32).wrapping_add(step);
    Uuid::from_u128((bits >> 32 << 32) | u128::from(low))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_streak_stays_with_a_partition_for_a_while_and_all_partitions_have_their_share() {
        let mut streak = Streak::default();
        let (mut shares, mut xids) = (BTreeMap::<_, u32>::new(), HashSet::new());
        for _ in 0..400 {
            let in_one: Vec<_> = (0..10).map(|_| streak.mint(16, |_| true)).collect();
            let homes: HashSet<_> = in_one.iter().map(|xid| partition_of(*xid, 16)).collect();
            // One in 3,000 finds no place: never many of ten.
            assert!(homes.len() <= 3, "{homes:?}");
            for xid in in_one {
                *shares.entry(partition_of(xid, 16)).or_default() += 1;
                assert!(xids.insert(xid), "twice");
                assert_eq!(xid.uuid().get_version_num(), 7);
            }
            tokio::time::advance(STREAK_FOR).await;
        }
        // 400 streaks over 16 partitions: 25 each, with a standard deviation of 5.
        assert_eq!(shares.len(), 16, "{shares:?}");
        assert!(shares.values().all(|share| *share > 10 && *share < 700), "{shares:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_streak_is_bounded_in_xids_and_ends_when_the_partitions_change() {
        let mut streak = Streak::default();
        let homes: HashSet<_> =
            (0..STREAK_XIDS * 40).map(|_| partition_of(streak.mint(16, |_| true), 16)).collect();
        assert!(homes.len() > 8, "many streaks without time passing: {homes:?}");
        for partitions in [1, 3, 64, 4_096, 0] {
            for _ in 0..100 {
                let xid = streak.mint(partitions, |_| true);
                assert!(partitions == 0 || partition_of(xid, partitions).0 < partitions);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_streak_is_in_a_good_partition_if_there_is_one() {
        let mut streak = Streak::default();
        let bad = partition_of(streak.mint(16, |_| true), 16);
        for _ in 0..100 {
            assert_ne!(partition_of(streak.mint(16, |partition| partition != bad), 16), bad);
            tokio::time::advance(STREAK_FOR).await;
        }
        // With none it is as if all were good.
        let homes: HashSet<_> = (0..20).map(|_| partition_of(streak.mint(16, |_| false), 16)).collect();
        assert!(homes.len() <= 3, "{homes:?}");
    }
}
