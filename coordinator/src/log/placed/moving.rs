//! Moving a partition's log from one server to another (protocol H10).
//!
//! ```text
//!  owner: sealing block on the old server, naming the new one           from here on nobody appends there
//!  owner, or whoever takes over: copy the chain ── read it back ── flip the placement, by compare-and-set
//!  then: recovery on the new server, whose epoch block follows the seal
//! ```
//!
//! Whoever finds a seal that names another server than the one it stands on does all of it again: copying what is there
//! changes nothing, and a placement flips only to a later seal than the one that brought it where it is.

use std::collections::BTreeMap;

use unanimity_types::{Epoch, PartitionId, Seq};

use super::PlacedLog;
use crate::failpoint;
use crate::log::{Block, Error, HOME_SERVER, PostgresLog, Seal, TransactionLog as _};

impl PlacedLog {
    /// Whether the partition can go there, and is not there already.
    pub(super) async fn check_target(&self, partition: PartitionId, name: &str) -> Result<(), Error> {
        if self.places.of(&self.home, partition).await? == name {
            return Err(Error::Refused(format!("partition {partition} is on server {name} already")));
        }
        let server = self.server(name).await?;
        // Reachable now, and willing to keep what it is given.
        server.check_commits().await?;
        if name != HOME_SERVER {
            if !self.home.knows_server(name).await? {
                let what = format!("server {name:?} never joined this log: run `unanimity migrate`");
                return Err(Error::Refused(what));
            }
            let living = self.home.reached_servers().await?;
            let reaches = |servers: &Option<Vec<String>>| {
                servers.as_ref().is_none_or(|servers| servers.iter().any(|known| known == name))
            };
            if !living.is_empty() && !living.iter().any(reaches) {
                return Err(Error::Refused(format!(
                    "no node that stays has said that it reaches server {name:?}: add it to their database.servers, or \
                     try again in some seconds"
                )));
            }
        }
        self.check_timeline(partition, name, &server).await
    }

    /// Whether what the target has of the partition, from an earlier stay, belongs to the log as it is now. If the servers
    /// were not restored to one moment, it may be of another timeline: the copy would not fit to it, and nobody could
    /// go on behind the seal.
    async fn check_timeline(
        &self,
        partition: PartitionId,
        name: &str,
        target: &PostgresLog,
    ) -> Result<(), Error> {
        let foreign = |what: String| {
            Err(Error::Refused(format!(
                "server {name:?} holds rows of another timeline of partition {partition}: {what}. It was not restored to \
                 the same moment as the rest of the log. Keep a copy of that partition's rows in log_blocks, \
                 history_watermarks and history there, delete them, and move the partition again; or choose another server"
            )))
        };
        let watermark = target.history_watermark(partition).await?;
        let theirs = match target.tip(partition).await {
            Err(Error::Damaged { seq: Seq(0), .. }) => Vec::new(),
            Err(error) => return Err(error),
            Ok(_) => match target.read(partition).await {
                Ok(blocks) => blocks,
                Err(error @ Error::Damaged { .. }) => return foreign(error.to_string()),
                Err(error) => return Err(error),
            },
        };
        let end = theirs.last().map_or((Epoch(0), Seq(0)), |last| (last.epoch, last.seq));
        if (watermark.epoch, watermark.seq) > end {
            return foreign(format!("its history speaks up to block {}, its blocks do not", watermark.seq));
        }
        if theirs.is_empty() {
            return Ok(());
        }
        let ours = self.at(partition).await?.read(partition).await?;
        let floor = ours.last().map_or(Seq(0), |last| last.floor);
        let ours: BTreeMap<Seq, _> = ours.iter().map(|block| (block.seq, block.checksum)).collect();
        for block in &theirs {
            // What was trimmed here is vouched for by the end of the chain that it is a part of.
            let is_trimmed = !block.kind.is_kept() && block.seq < floor && block.seq != end.1;
            let fits = ours.get(&block.seq).map_or(is_trimmed, |checksum| *checksum == block.checksum);
            if !fits {
                return foreign(format!("its block {} is not one of this log", block.seq));
            }
        }
        Ok(())
    }

    /// Brings a sealed partition's log to where its seal says that it goes on.
    pub(super) async fn follow(&self, block: &Block) -> Result<(), Error> {
        let partition = block.partition;
        let Some(Seal { server, operator, reason }) = Seal::of(block) else {
            let what = "its sealing block cannot be read".to_owned();
            return Err(Error::Damaged { partition, seq: block.seq, what });
        };
        let places = self.places.refresh(&self.home).await?;
        let Some(place) = places.into_iter().find(|place| place.partition == partition) else {
            return Err(crate::log::rules::no_partition(partition));
        };
        if place.since >= block.seq {
            // Somebody else brought it there, or further.
            return Ok(());
        }
        let (source, target) = (self.server(&place.server).await?, self.server(&server).await?);
        // First: what is read behind an acknowledged write is durable, so nothing can follow a seal that stands there at
        // the end. The seal alone may be gone after a failover (protocol C4).
        source.barrier(partition).await?;
        let chain = source.read(partition).await?;
        if chain.last().map(|last| last.checksum) != Some(block.checksum) {
            return Err(Error::Unavailable(format!(
                "partition {partition} went on behind its seal while it was moved"
            )));
        }
        let watermark = source.history_watermark(partition).await?;
        target.import(&chain, watermark).await?;
        // Read back: a COMMIT that was silently a ROLLBACK would show here, and whatever does not fit.
        let copied = target.read(partition).await?;
        if !copied.iter().any(|copy| copy.checksum == block.checksum) {
            return Err(Error::Unavailable(format!(
                "the log of partition {partition} did not arrive on server {server}"
            )));
        }
        failpoint::reach("move.after_import");
        self.home.flip(partition, &place.server, &server, block.seq).await?;
        failpoint::reach("move.after_flip");
        self.places.refresh(&self.home).await?;
        tracing::info!(%partition, from = place.server, to = server, operator, reason, blocks = chain.len(),
            "the partition's log was moved");
        // What is open is written again where it goes on; here it would stay for ever. Without effect on anybody.
        if let Err(error) = source.drop_open_history(partition).await {
            tracing::debug!(%partition, %error, "rows of open transactions stay in history on {}", place.server);
        }
        Ok(())
    }
}
