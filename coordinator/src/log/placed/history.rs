//! History over several servers: each has the rows that were written while a partition's log was there.
//!
//! A finished transaction's row stays where it was written. An open one's is written again where the log goes on, so
//! open rows count only on the server that holds their partition.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use unanimity_types::{PartitionId, Timestamp, Xid, partition_of};

use super::PlacedLog;
use crate::log::{Error, HistoryFilter, HistoryKept, HistoryPage, HistoryRow, TransactionLog as _, rules};

impl PlacedLog {
    /// Looks on every server that ever held the xids' partitions.
    pub(super) async fn find_everywhere(&self, xids: &[Xid]) -> Result<Vec<HistoryRow>, Error> {
        let partitions = self.home.identity().partitions;
        let mut by_server: BTreeMap<String, Vec<Xid>> = BTreeMap::new();
        let mut at: BTreeMap<PartitionId, String> = BTreeMap::new();
        for xid in xids {
            let partition = partition_of(*xid, partitions);
            let holders = self.places.holders(&self.home, partition).await?;
            at.extend(holders.first().map(|server| (partition, server.clone())));
            for server in holders {
                by_server.entry(server).or_default().push(*xid);
            }
        }
        let looks = by_server.iter().map(|(name, xids)| async move {
            Ok::<_, Error>((name, self.server(name).await?.find_history(xids).await?))
        });
        let mut found = Vec::new();
        for (name, rows) in futures::future::try_join_all(looks).await? {
            let counts = |row: &HistoryRow| {
                row.status.is_terminal() || at.get(&partition_of(row.xid, partitions)) == Some(name)
            };
            found.extend(rows.into_iter().filter(counts));
        }
        // What was over stays so, and else the later one tells (protocol H12).
        found.sort_unstable_by_key(|row: &HistoryRow| {
            (row.xid, !row.status.is_terminal(), Reverse((row.epoch, row.seq)))
        });
        found.dedup_by_key(|row| row.xid);
        Ok(found)
    }

    /// The highest floor of those servers: what finished before it may be gone on one of them.
    pub(super) async fn highest_floor(&self, partition: PartitionId) -> Result<Timestamp, Error> {
        let mut highest = Timestamp(0);
        for name in self.places.holders(&self.home, partition).await? {
            highest = highest.max(self.server(&name).await?.history_floor(partition).await?);
        }
        Ok(highest)
    }

    /// Keeps history in order on every server; one that is away holds up no other.
    pub(super) async fn keep_everywhere(&self, retention: Duration) -> Result<HistoryKept, Error> {
        let mut kept = self.home.keep_history(retention).await?;
        let mut failed = None;
        for name in self.servers.keys() {
            let theirs = match self.server(name).await {
                Ok(server) => server.keep_history(retention).await,
                Err(error) => Err(error),
            };
            match theirs {
                Ok(theirs) => {
                    kept =
                        HistoryKept { floor: kept.floor.max(theirs.floor), more: kept.more || theirs.more };
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(kept), Err)
    }

    /// A page out of every server's page.
    pub(super) async fn list_everywhere(&self, filter: &HistoryFilter) -> Result<HistoryPage, Error> {
        let mut here: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for place in self.places.all(&self.home).await? {
            names.extend(self.places.holders(&self.home, place.partition).await?);
            here.entry(place.server).or_default().push(place.partition);
        }
        let looks = names.iter().map(|name| {
            let open_of = here.get(name).cloned().unwrap_or_default();
            async move { self.server(name).await?.list_here(filter, open_of).await }
        });
        let pages = futures::future::try_join_all(looks).await?;
        let limit = rules::page_limit(filter);
        let mut more = pages.iter().any(|page| page.more);
        let mut rows: Vec<HistoryRow> = pages.into_iter().flat_map(|page| page.rows).collect();
        rows.sort_unstable_by_key(|row| Reverse((row.begun_at, row.xid)));
        more |= rows.len() > limit;
        rows.truncate(limit);
        Ok(HistoryPage { rows, more })
    }
}
