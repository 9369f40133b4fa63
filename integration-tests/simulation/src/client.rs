//! How TMs and participants talk to nodes: any node, another one where this one does not answer, the same
//! command again where nobody knows what became of it (protocol M3). Every answer that leaves a node is checked.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{
    Begun, Coordinator, Error, Inquiry, Registered, Standing, TransactionView,
};
use unanimity_types::{AbortReason, ErrorCode, InquiryAnswer, LogPosition, Status, Xid, partition_of};

use crate::hits::Hit;
use crate::net::NoAnswer;
use crate::world::{Host, World};

/// How long a client waits for an answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Why a command brought nothing.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// It may have been taken.
    Unknown,
    /// It was not, or was answered so.
    Refused(Box<Error>),
}

impl Failed {
    pub(crate) fn status(&self) -> Option<Status> {
        match self {
            Self::Refused(error) => error.status,
            Self::Unknown => None,
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Unknown => "unknown".to_owned(),
            Self::Refused(error) => format!("{} {:?}", error.code, error.abort_reason),
        }
    }
}

/// What an answer says about transactions.
pub(crate) trait Says {
    /// Each transaction and its status.
    fn says(&self) -> Vec<(Xid, Status)>;
    /// The place that it looked at.
    fn position(&self) -> Option<LogPosition> {
        None
    }
}

impl Says for Standing {
    fn says(&self) -> Vec<(Xid, Status)> {
        vec![(self.xid, self.status)]
    }

    fn position(&self) -> Option<LogPosition> {
        Some(self.position)
    }
}

impl Says for Begun {
    fn says(&self) -> Vec<(Xid, Status)> {
        vec![(self.xid, self.status)]
    }

    fn position(&self) -> Option<LogPosition> {
        Some(self.position)
    }
}

impl Says for TransactionView {
    fn says(&self) -> Vec<(Xid, Status)> {
        vec![(self.xid, self.status)]
    }

    fn position(&self) -> Option<LogPosition> {
        Some(self.position)
    }
}

impl Says for Registered {
    fn says(&self) -> Vec<(Xid, Status)> {
        Vec::new()
    }

    fn position(&self) -> Option<LogPosition> {
        Some(self.position)
    }
}

impl Says for Vec<Inquiry> {
    fn says(&self) -> Vec<(Xid, Status)> {
        let of = |inquiry: &Inquiry| {
            let status = match (inquiry.answer, inquiry.settled) {
                (InquiryAnswer::Committed, true) => Status::Committed,
                (InquiryAnswer::Committed, false) => Status::Committing,
                (InquiryAnswer::Aborted, true) => Status::Aborted,
                (InquiryAnswer::Aborted, false) => Status::Aborting,
                _ => return None,
            };
            Some((inquiry.xid, status))
        };
        self.iter().filter_map(of).collect()
    }
}

impl Says for () {
    fn says(&self) -> Vec<(Xid, Status)> {
        Vec::new()
    }
}

impl World {
    /// A node's answer, as it leaves the node.
    pub(crate) fn answered<T: Says>(&self, answer: &Result<T, Error>) {
        match answer {
            Ok(answer) => {
                for (xid, status) in answer.says() {
                    self.check(|checks| checks.told(xid, status));
                }
            }
            Err(error) => self.error(error),
        }
    }

    fn error(&self, error: &Error) {
        if let (Some(xid), Some(status), ErrorCode::AlreadyDecided) = (error.xid, error.status, error.code) {
            self.check(|checks| checks.told(xid, status));
            let without_a_block = self.check(|checks| checks.decision(xid)).is_none();
            let stale =
                matches!(error.abort_reason, Some(AbortReason::OwnerChanged | AbortReason::TicketExpired));
            if without_a_block && stale {
                self.hit(Hit::StaleTicket);
            }
        }
        match error.code {
            ErrorCode::OutcomeUnknown => self.hit(Hit::OutcomeUnknown),
            ErrorCode::LockConflict => self.hit(Hit::LockConflict),
            ErrorCode::LogLostTail if self.check(|checks| checks.lost) => {}
            ErrorCode::XidReused if self.check(|checks| checks.lost) => {}
            // Open work is pinned to an instance: the same call at the next one is another body (protocol H8, H11).
            ErrorCode::BranchKeyReused => {}
            ErrorCode::Internal
            | ErrorCode::LogDamaged
            | ErrorCode::LogLostTail
            | ErrorCode::NotMine
            | ErrorCode::XidReused
            | ErrorCode::WrongSecret
            | ErrorCode::InvalidPlan
            | ErrorCode::InvalidRequest
            | ErrorCode::InvalidTimeout => {
                self.fail(error.xid, format_args!("a client is told {}: {}", error.code, error.message));
            }
            _ => {}
        }
    }

    /// Sends a command about a transaction until it is answered, or that many nodes were tried.
    pub(crate) async fn command<T, F, Fut>(
        self: &Arc<Self>,
        from: Host,
        xid: Xid,
        what: &str,
        tries: usize,
        command: F,
    ) -> Result<T, Failed>
    where
        F: Fn(Coordinator) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Says + Send + 'static,
    {
        let partition = partition_of(xid, self.swarm.partitions);
        let mut node = self.nodes_for(partition.0);
        let mut last = Failed::Unknown;
        let mut unknown = false;
        // Each try asks one node after the other, until one takes it.
        for attempt in 0..tries * self.nodes.len() {
            if attempt > 0 && attempt % self.nodes.len() == 0 {
                tokio::time::sleep(self.up_to(Duration::from_millis(300))).await;
            }
            let command = command.clone();
            let world = Arc::clone(self);
            let answer = self
                .ask(from, node, LIMIT, move |coordinator| {
                    let world = Arc::clone(&world);
                    let answer = command(coordinator);
                    async move {
                        let answer = answer.await;
                        world.answered(&answer);
                        answer
                    }
                })
                .await;
            match answer {
                Ok(Ok(answer)) => {
                    let says: Vec<_> = answer.says().iter().map(|(_, status)| status.as_str()).collect();
                    self.note(from, Some(xid), format_args!("{what} at n{node}: {}", says.join(" ")));
                    self.owned_by(partition.0, node);
                    self.saw(from, answer.position());
                    return Ok(answer);
                }
                Ok(Err(error)) => {
                    let not_taken = matches!(
                        error.code,
                        ErrorCode::NotOwner
                            | ErrorCode::Unavailable
                            | ErrorCode::TooBusy
                            | ErrorCode::LogLostTail
                    );
                    let nobody_knows = error.code == ErrorCode::OutcomeUnknown;
                    unknown |= nobody_knows;
                    last = Failed::Refused(Box::new(error));
                    if !not_taken && !nobody_knows {
                        self.note(from, Some(xid), format_args!("{what} at n{node}: {}", last.word()));
                        return Err(last);
                    }
                    node = (node + 1) % self.nodes.len();
                }
                Err(no) => {
                    unknown |= no == NoAnswer::Unknown;
                    node = (node + 1) % self.nodes.len();
                }
            }
        }
        if unknown {
            last = Failed::Unknown;
        }
        self.note(from, Some(xid), format_args!("{what}: {} after {tries} tries", last.word()));
        Err(last)
    }

    /// The node that was last heard to own a partition, or any.
    fn nodes_for(&self, partition: u16) -> usize {
        let known = self.owners.get().get(&partition).copied();
        let any = self.dice(|dice| dice.usize(..self.nodes.len()));
        known.filter(|_| !self.percent(10)).unwrap_or(any)
    }

    fn owned_by(&self, partition: u16, node: usize) {
        self.owners.get().insert(partition, node);
    }
}
