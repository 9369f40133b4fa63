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

use unanimity_types::PartitionId;

use super::PlacedLog;
use crate::failpoint;
use crate::log::{Block, Error, HOME_SERVER, Seal, TransactionLog as _};

impl PlacedLog {
    /// Whether the partition can go there, and is not there already.
    pub(super) async fn check_target(&self, partition: PartitionId, name: &str) -> Result<(), Error> {
        if self.places.of(&self.home, partition).await? == name {
            return Err(Error::Refused(format!("partition {partition} is on server {name} already")));
        }
        let server = self.server(name).await?;
        // Reachable now, and willing to keep what it is given.
        server.check_commits().await?;
        if name == HOME_SERVER || self.home.knows_server(name).await? {
            return Ok(());
        }
        Err(Error::Refused(format!("server {name:?} never joined this log: run `unanimity migrate`")))
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
