//! What this node knows about where partitions are. It may be old; who acts on it finds a seal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimity_types::{PartitionId, Seq};

use crate::log::{Error, PostgresLog};

/// Where a partition's log is, as the home database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::log) struct Place {
    /// Which partition.
    pub(in crate::log) partition: PartitionId,
    /// The server's name.
    pub(in crate::log) server: String,
    /// The sealing block that brought it there; 0 where it was born.
    pub(in crate::log) since: Seq,
}

#[derive(Debug, Clone)]
struct Known {
    server: String,
    since: Seq,
    /// Where rows of its history may be besides.
    former: BTreeSet<String>,
}

/// The places that were heard of.
#[derive(Debug)]
pub(super) struct Places {
    partitions: u16,
    known: Mutex<BTreeMap<PartitionId, Known>>,
}

impl Places {
    pub(super) fn new(partitions: u16) -> Self {
        Self { partitions, known: Mutex::new(BTreeMap::new()) }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server of a partition; asks home if it was never heard of.
    pub(super) async fn of(&self, home: &PostgresLog, partition: PartitionId) -> Result<String, Error> {
        self.look(home, partition, |known| known.server.clone()).await
    }

    /// The servers on which rows of a partition's history may be: its own first.
    pub(super) async fn holders(
        &self,
        home: &PostgresLog,
        partition: PartitionId,
    ) -> Result<Vec<String>, Error> {
        self.look(home, partition, |known| {
            let former = known.former.iter().filter(|name| **name != known.server);
            std::iter::once(&known.server).chain(former).cloned().collect()
        })
        .await
    }

    async fn look<T>(
        &self,
        home: &PostgresLog,
        partition: PartitionId,
        of: impl Fn(&Known) -> T,
    ) -> Result<T, Error> {
        if partition.0 >= self.partitions {
            return Err(crate::log::rules::no_partition(partition));
        }
        if let Some(known) = self.known().get(&partition) {
            return Ok(of(known));
        }
        self.refresh(home).await?;
        self.known().get(&partition).map(of).ok_or_else(|| crate::log::rules::no_partition(partition))
    }

    /// Reads all places anew.
    pub(super) async fn refresh(&self, home: &PostgresLog) -> Result<Vec<Place>, Error> {
        let (places, former) = home.places().await?;
        let mut fresh: BTreeMap<PartitionId, Known> = BTreeMap::new();
        for Place { partition, server, since } in places.clone() {
            fresh.insert(partition, Known { server, since, former: BTreeSet::new() });
        }
        for (partition, server) in former {
            if let Some(known) = fresh.get_mut(&partition) {
                known.former.insert(server);
            }
        }
        let mut known = self.known();
        for (partition, fresh) in fresh {
            // An answer that was on its way for long is not heard.
            if known.get(&partition).is_none_or(|old| old.since <= fresh.since) {
                known.insert(partition, fresh);
            }
        }
        Ok(places)
    }

    /// Every partition's place, read anew.
    pub(super) async fn all(&self, home: &PostgresLog) -> Result<Vec<Place>, Error> {
        self.refresh(home).await
    }

    /// A word about one partition came along. If it moved, what is known about it is to be read anew.
    pub(super) fn heard(&self, partition: PartitionId, place: &Place) {
        let mut known = self.known();
        if known.get(&partition).is_some_and(|old| old.since < place.since) {
            known.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h10_what_is_known_is_forgotten_when_the_partition_moved_and_not_before() {
        let places = Places::new(1);
        let (partition, server) = (PartitionId(0), "home".to_owned());
        let known = Known { server: server.clone(), since: Seq(0), former: BTreeSet::new() };
        places.known().insert(partition, known);
        places.heard(partition, &Place { partition, server, since: Seq(0) });
        assert!(places.known().contains_key(&partition));
        places.heard(partition, &Place { partition, server: "b".to_owned(), since: Seq(7) });
        assert!(!places.known().contains_key(&partition));
    }
}
