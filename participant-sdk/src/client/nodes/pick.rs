//! Whom to ask next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::PartitionId;

use super::{Door, Entry, Inner, Nodes, Origin, Owner, Reach};

/// How good a door is to ask: the smallest is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It is the owner's.
    Owner,
    /// A node of the cluster, which passes it on.
    Reached,
    /// The same, but it is about to leave, or nobody tells of it.
    Leaving,
    /// Nobody has tried it yet.
    Untried,
    /// It was better avoided a moment ago; the longer ago, the better.
    Avoided(Duration),
    /// It could not be reached; those that failed longest ago first.
    Down(Duration),
}

impl Nodes {
    /// The door to ask about a partition, or about none in particular; not one of `tried`. `None` if there is no other.
    pub(crate) fn pick(&self, partition: Option<PartitionId>, tried: &[Arc<str>]) -> Option<Arc<Door>> {
        let inner = self.shared.lock();
        let owner = partition.and_then(|partition| inner.known.owner(partition));
        let now = Instant::now();
        let doors = inner.doors.values().filter(|entry| !tried.contains(&entry.door.address));
        doors
            .filter_map(|entry| {
                let rank = inner.rank(entry, owner, now)?;
                // Seeds in their order; nodes by lot, so that all have the same share.
                let lot = match (rank, &entry.origin) {
                    (Rank::Untried, Origin::Seed { .. }) => entry.place,
                    _ => fastrand::usize(..),
                };
                Some((rank, lot, entry))
            })
            .min_by_key(|(rank, lot, _)| (*rank, *lot))
            .map(|(_, _, entry)| Arc::clone(&entry.door))
    }
}

impl Inner {
    /// `None`: it leads to a node that is reached already.
    fn rank(&self, entry: &Entry, owner: Option<&Owner>, now: Instant) -> Option<Rank> {
        let node = self.node_at(entry);
        if entry.reach != Reach::Up
            && node.as_ref().is_some_and(|node| self.reached_besides(node, &entry.door.address))
        {
            return None;
        }
        if let Some(until) = entry.avoid_until.filter(|until| *until > now) {
            return Some(Rank::Avoided(until - now));
        }
        if let Reach::Down(since) = entry.reach {
            // The smallest first: what failed long ago has the most of this left.
            return Some(Rank::Down(Duration::MAX - (now - since)));
        }
        let is_owner = match owner {
            Some(Owner::Node(owner)) => node.as_ref() == Some(owner),
            Some(Owner::At(address)) => entry.door.address == *address,
            None => false,
        };
        if is_owner {
            return Some(Rank::Owner);
        }
        let told = node.and_then(|node| self.view.get(&node));
        Some(match (entry.reach, told) {
            (Reach::Up, Some(at)) if !at.draining => Rank::Reached,
            (Reach::Up, _) => Rank::Leaving,
            _ => Rank::Untried,
        })
    }
}
