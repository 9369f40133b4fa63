//! The second phase: what is done with a branch on the coordinator's word.
//!
//! Every operation may be repeated and may come at any time. The branch's row of the ledger is the
//! arbiter: a rollback writes it where there is none, which a transaction that still works or is
//! prepared does not let happen, so that whoever succeeds knows that the other never will.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::failpoint;
use crate::xa::backend::{FinishFailure, Lease, LedgerState, XaDatabase};
use crate::xa::error::{Alarm, OnePhase, Prepared, Settled, XaError};
use crate::xa::gid::Gid;
use crate::xa::registry::{Order, Presence};
use crate::xa::resource::Inner;

/// Pauses between the attempts of one call: a session that prepared a branch takes a moment to go
/// (MariaDB, MySQL), and somebody else may be finishing it. The coordinator comes again after that.
const PAUSES_MS: [u64; 6] = [0, 20, 50, 100, 200, 400];
/// How long one attempt at the ledger's row waits for a transaction that holds it. Several fit into a
/// call of the coordinator.
const ROW_WAIT: Duration = Duration::from_secs(1);
/// Attempts at a row that is held.
const ROW_ATTEMPTS: usize = 3;

/// What a branch's row says once nothing of the branch is open any more.
enum Row {
    Is(LedgerState),
    /// Something of the branch is prepared.
    Prepared,
}

impl<DB: XaDatabase> Inner<DB> {
    pub(super) async fn is_prepared(&self, gid: &Gid) -> Result<bool, sqlx::Error> {
        let mut lease = Lease::take(&self.pool).await?;
        let is = DB::is_prepared(lease.connection(), gid).await?;
        lease.give_back();
        Ok(is)
    }

    fn is_open(&self, gid: &Gid) -> bool {
        !matches!(self.registry.presence(gid), Presence::Absent)
    }

    pub(super) async fn prepare(&self, gid: &Gid) -> Prepared {
        match self.registry.presence(gid) {
            Presence::AtWork => return Prepared::Unknown(XaError::Busy),
            Presence::Held(orders) => {
                let (reply, answer) = oneshot::channel();
                if orders.send(Order::Prepare(reply)).await.is_ok()
                    && let Ok(prepared) = answer.await
                {
                    return prepared;
                }
            }
            Presence::Absent => {}
        }
        // Not here: prepared before, or gone with its instance.
        match self.row(gid).await {
            Ok(Row::Prepared | Row::Is(LedgerState::Committed)) => Prepared::Yes,
            Ok(Row::Is(LedgerState::RolledBack)) => Prepared::Refused(
                "nothing of this branch is held here: it was rolled back, or its instance is gone".to_owned(),
            ),
            Ok(Row::Is(LedgerState::Working)) => Prepared::Refused(XaError::TransactionLost.to_string()),
            Err(error) => Prepared::Unknown(error),
        }
    }

    pub(super) async fn commit(&self, gid: &Gid) -> Settled {
        let mut last = XaError::StillOpen;
        let mut missed = 0;
        for pause in PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let mut lease = match Lease::take(&self.pool).await {
                Ok(lease) => lease,
                Err(error) => return Settled::Unknown(error.into()),
            };
            failpoint::reach("xa.before_commit");
            let committed = DB::commit_prepared(lease.connection(), gid).await;
            failpoint::reach("xa.after_commit");
            let Err(error) = committed else {
                lease.give_back();
                return Settled::Done;
            };
            match DB::finish_failure(&error) {
                FinishFailure::Missing => match self.missing(lease, gid).await {
                    Ok(Row::Is(LedgerState::Committed)) => return Settled::Done,
                    Ok(Row::Is(LedgerState::RolledBack)) => {
                        return Settled::Alarm(Alarm::RolledBackInstead(*gid));
                    }
                    Ok(Row::Is(LedgerState::Working)) => return Settled::Alarm(Alarm::CommittedByWork(*gid)),
                    // Its session still lives (MariaDB, MySQL).
                    Ok(Row::Prepared) => last = XaError::StillOpen,
                    Err(XaError::StillOpen) if self.is_open(gid) => last = XaError::Busy,
                    Err(XaError::StillOpen) => missed += 1,
                    Err(error) => last = error,
                },
                FinishFailure::WrongRole => return Settled::Alarm(Alarm::WrongRole(*gid)),
                FinishFailure::WrongDatabase => return Settled::Alarm(Alarm::WrongDatabase(*gid)),
                // The lease closes the connection.
                FinishFailure::Busy | FinishFailure::Other => last = error.into(),
            }
        }
        // Seen each time, so that it is not the time which another session takes for its commit: in MariaDB
        // and MySQL the branch is in no list meanwhile, and its row not to be read.
        if missed == PAUSES_MS.len() {
            return Settled::Alarm(Alarm::CommitLost(*gid));
        }
        Settled::Unknown(last)
    }

    /// What there is of a branch that is not to be finished; `StillOpen` if there is nothing.
    async fn missing(&self, mut lease: Lease<DB>, gid: &Gid) -> Result<Row, XaError> {
        if DB::is_prepared(lease.connection(), gid).await? {
            lease.give_back();
            return Ok(Row::Prepared);
        }
        let state = DB::read_state(lease.connection(), gid).await?;
        lease.give_back();
        state.map(Row::Is).ok_or(XaError::StillOpen)
    }

    pub(super) async fn rollback(&self, gid: &Gid) -> Settled {
        // Work that runs here, or waits for its prepare, ends now.
        self.registry.stop(gid);
        let mut last = XaError::StillOpen;
        for pause in &PAUSES_MS[..ROW_ATTEMPTS] {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            let mut lease = match Lease::take(&self.pool).await {
                Ok(lease) => lease,
                Err(error) => return Settled::Unknown(error.into()),
            };
            failpoint::reach("xa.before_rollback");
            let rolled_back = DB::rollback_prepared(lease.connection(), gid).await;
            failpoint::reach("xa.after_rollback");
            if let Err(error) = rolled_back {
                match DB::finish_failure(&error) {
                    FinishFailure::Missing => {}
                    FinishFailure::WrongRole => return Settled::Alarm(Alarm::WrongRole(*gid)),
                    FinishFailure::WrongDatabase => return Settled::Alarm(Alarm::WrongDatabase(*gid)),
                    FinishFailure::Busy | FinishFailure::Other => {
                        last = error.into();
                        continue;
                    }
                }
            }
            // So that no work of it can begin, or become prepared, any more.
            match DB::close_row(lease.connection(), gid, ROW_WAIT).await {
                Ok(state) => {
                    lease.give_back();
                    match state {
                        Some(LedgerState::RolledBack) => return Settled::Done,
                        Some(LedgerState::Committed) => return Settled::Alarm(Alarm::CommittedInstead(*gid)),
                        Some(LedgerState::Working) => return Settled::Alarm(Alarm::CommittedByWork(*gid)),
                        None => {}
                    }
                }
                // Work of it has the row, or a prepare came between the two statements.
                Err(error) if DB::is_lock_wait(&error) => last = XaError::StillOpen,
                Err(error) => last = error.into(),
            }
        }
        Settled::Unknown(last)
    }

    pub(super) async fn commit_one_phase(&self, gid: &Gid) -> OnePhase {
        match self.registry.presence(gid) {
            Presence::AtWork => return OnePhase::Unknown(XaError::Busy),
            Presence::Held(orders) => {
                let (reply, answer) = oneshot::channel();
                if orders.send(Order::CommitOnePhase(reply)).await.is_ok()
                    && let Ok(outcome) = answer.await
                {
                    return outcome;
                }
            }
            Presence::Absent => {}
        }
        self.decide_one_phase(gid, "nothing of this branch is held here: its instance is gone").await
    }

    /// The answer is a write (protocol H4): the branch's row, or what it says already.
    pub(super) async fn decide_one_phase(&self, gid: &Gid, reason: &str) -> OnePhase {
        match self.row(gid).await {
            Ok(Row::Is(LedgerState::Committed)) => OnePhase::Committed,
            Ok(Row::Is(LedgerState::RolledBack)) => OnePhase::Refused(reason.to_owned()),
            Ok(Row::Is(LedgerState::Working)) => OnePhase::Alarm(Alarm::CommittedByWork(*gid)),
            // It prepared by itself and can go either way: so it goes this one.
            Ok(Row::Prepared) => match self.commit(gid).await {
                Settled::Done => OnePhase::Committed,
                Settled::Unknown(error) => OnePhase::Unknown(error),
                Settled::Alarm(alarm) => OnePhase::Alarm(alarm),
            },
            Err(error) => OnePhase::Unknown(error),
        }
    }

    /// What became of a branch that is not open in this process; writes that it is rolled back where
    /// nothing is known of it.
    async fn row(&self, gid: &Gid) -> Result<Row, XaError> {
        for _ in 0..ROW_ATTEMPTS {
            let mut lease = Lease::take(&self.pool).await?;
            if DB::is_prepared(lease.connection(), gid).await? {
                lease.give_back();
                return Ok(Row::Prepared);
            }
            match DB::close_row(lease.connection(), gid, ROW_WAIT).await {
                Ok(state) => {
                    lease.give_back();
                    if let Some(state) = state {
                        return Ok(Row::Is(state));
                    }
                }
                Err(error) if DB::is_lock_wait(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(XaError::StillOpen)
    }
}
