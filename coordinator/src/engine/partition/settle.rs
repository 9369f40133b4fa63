//! Appending a block until it is known how that ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::mutant::{self, Mutant};

use crate::log::{Appended, Block, Error, TransactionLog};

/// How an append ended, for good.
#[derive(Debug)]
pub(super) enum Settled {
    /// It is durable.
    Written,
    /// It is there since an earlier offer: durable after one more acknowledged append (protocol C4).
    AlreadyThere,
    /// Its place is taken, or its predecessor gone.
    Conflict,
    /// The database refused: nothing was written, or (`maybe`) an earlier offer of unknown outcome
    /// may have been.
    Refused { why: String, maybe: bool },
}

/// After so long without an answer callers are told that the log is unavailable.
const TROUBLE_AFTER: Duration = Duration::from_secs(1);
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Offers the same bytes at the same place until the answer is final (protocol C4): a reading alone
/// settles nothing. `trouble` hears when that takes long, once.
pub(super) async fn settle(
    log: Arc<dyn TransactionLog>,
    block: Block,
    trouble: impl Fn(String) + Send + Sync + 'static,
) -> Settled {
    let started = Instant::now();
    let mut wait = WAIT_MIN;
    let mut maybe = false;
    let mut told = false;
    loop {
        let offer = log.append(&block);
        tokio::pin!(offer);
        // A hanging database is trouble too, before the offer ends.
        let answer = loop {
            let patience = TROUBLE_AFTER.saturating_sub(started.elapsed());
            tokio::select! {
                biased;
                answer = &mut offer => break answer,
                () = tokio::time::sleep(patience), if !told => {
                    told = true;
                    trouble("the log's database does not answer".to_owned());
                }
            }
        };
        let error = match answer {
            Ok(Appended::Written) => return Settled::Written,
            Ok(Appended::AlreadyThere) => return Settled::AlreadyThere,
            Ok(Appended::Conflict) => return Settled::Conflict,
            Err(error) => error,
        };
        match &error {
            Error::Unknown(why) if mutant::is(Mutant::SettledByRead) => {
                return match log.block_at(block.partition, block.seq).await {
                    Ok(Some(there)) if there.checksum == block.checksum => Settled::Written,
                    _ => Settled::Refused { why: why.clone(), maybe: false },
                };
            }
            Error::Unknown(_) => maybe = true,
            Error::Unavailable(_) => {}
            _ => return Settled::Refused { why: error.to_string(), maybe },
        }
        if !told && started.elapsed() >= TROUBLE_AFTER {
            told = true;
            trouble(error.to_string());
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}
