//! The tickets that the coordinator gave out last, by partition (protocol 1.2). Each owner tells its own.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::{ticket_from_wire, v1};
use unanimity_types::{LogId, PartitionId, SLOTS, Ticket, Xid, partition_of};

use crate::client::calls::parse_log_id;
use crate::client::nodes::Teller;
use crate::client::streak::Streak;

/// A ticket that was heard longer ago is not used: whoever gave it out has not been heard of for a
/// generation, so a begin by call, which finds out, is the better way.
const FRESH_FOR: Duration = Duration::from_secs(15);
/// How long an epoch keeps older ones out after it was last heard of: far longer than anybody who lost a partition
/// does not know it yet. Not for ever, since a log that was restored may begin again below it.
const EPOCH_HOLDS_FOR: Duration = Duration::from_secs(600);

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    heard: RwLock<Heard>,
    streak: Mutex<Streak>,
}

#[derive(Debug, Default)]
struct Heard {
    /// How many partitions the log has; 0 before it is known (protocol M17: it is never compiled in).
    partitions: u16,
    /// Whose tickets they are.
    log_id: Option<LogId>,
    /// By partition.
    tickets: Vec<Option<Given>>,
}

#[derive(Debug, Clone, Copy)]
struct Given {
    ticket: Ticket,
    heard: Instant,
    /// Who gave it out; `None` when that is not heard of any more. Its epoch is remembered.
    by: Option<Teller>,
}

impl Tickets {
    /// Takes what a node says. What is impossible is left out, and what comes from an owner that another one has
    /// followed: then transactions begin by call.
    pub(super) fn hear(&self, told: &v1::Tickets, by: Teller) {
        let partitions = u16::try_from(told.partitions).unwrap_or(0);
        if partitions == 0 || partitions > SLOTS {
            return;
        }
        let Some(log_id) = parse_log_id(&told.log_id) else { return };
        let now = Instant::now();
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        if heard.log_id != Some(log_id) {
            heard.tickets.clear();
        }
        heard.log_id = Some(log_id);
        heard.partitions = partitions;
        heard.tickets.resize(usize::from(partitions), None);
        for told in &told.tickets {
            let ticket = told.ticket.as_ref().and_then(|ticket| ticket_from_wire(ticket).ok());
            let place = usize::try_from(told.partition).ok().and_then(|place| heard.tickets.get_mut(place));
            let (Some(ticket), Some(place)) = (ticket, place) else { continue };
            let is_old =
                |given: &Given| given.ticket.epoch > ticket.epoch && now - given.heard < EPOCH_HOLDS_FOR;
            if !place.as_ref().is_some_and(is_old) {
                *place = Some(Given { ticket, heard: now, by: Some(by) });
            }
        }
    }

    /// A new xid, of a partition about which something recent is known if there is one, and what to stamp it with then.
    pub(crate) fn mint(&self) -> (Xid, Option<(LogId, Ticket)>) {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |partition| heard.ticket_of(partition).is_some();
        let mut streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
        let xid = streak.mint(heard.partitions, is_fresh);
        drop(streak);
        (xid, heard.ticket_for(xid))
    }

    /// The partition that an xid is in; `None` before it is known how many there are.
    pub(super) fn partition(&self, xid: Xid) -> Option<PartitionId> {
        let partitions = self.heard.read().unwrap_or_else(PoisonError::into_inner).partitions;
        (partitions > 0).then(|| partition_of(xid, partitions))
    }

    /// Lets go of what somebody gave out who is not heard of any more.
    pub(super) fn end(&self, by: Teller) {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        for given in heard.tickets.iter_mut().flatten().filter(|given| given.by == Some(by)) {
            given.by = None;
        }
    }
}

impl Heard {
    /// What to stamp an xid with, and whose ticket it is; `None` if nothing recent is known about its partition.
    fn ticket_for(&self, xid: Xid) -> Option<(LogId, Ticket)> {
        if self.partitions == 0 {
            return None;
        }
        Some((self.log_id?, self.ticket_of(partition_of(xid, self.partitions))?))
    }

    fn ticket_of(&self, partition: PartitionId) -> Option<Ticket> {
        let given = self.tickets.get(usize::from(partition.0))?.as_ref()?;
        (given.by.is_some() && given.heard.elapsed() < FRESH_FOR).then_some(given.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: u128, partitions: std::ops::Range<u32>, epoch: u64, generation: u64) -> v1::Tickets {
        let ticket = v1::Ticket { epoch, epoch_tag: 7, generation };
        v1::Tickets {
            tickets: partitions
                .map(|partition| v1::PartitionTicket { partition, ticket: Some(ticket) })
                .collect(),
            partitions: 4,
            log_id: uuid::Uuid::from_u128(log).to_string(),
        }
    }

    impl Tickets {
        fn of(&self, partition: u16) -> Option<(u64, u64)> {
            let heard = self.heard.read().expect("sound");
            heard.ticket_of(PartitionId(partition)).map(|ticket| (ticket.epoch.0, ticket.generation))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_while_its_owner_is_heard_of() {
        let (tickets, a) = (Tickets::default(), Teller::numbered(1));
        assert_eq!((tickets.of(0), tickets.mint().1), (None, None));
        tickets.hear(&told(1, 0..4, 3, 8), a);
        assert_eq!(tickets.of(0), Some((3, 8)));
        tickets.hear(&v1::Tickets { partitions: 100_000, ..told(1, 0..4, 3, 9) }, a);
        assert_eq!(tickets.of(0), Some((3, 8)), "nonsense is not heard");
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(tickets.of(0), None);
        tickets.hear(&told(1, 0..4, 3, 9), a);
        assert_eq!(tickets.of(0), Some((3, 9)));
        tickets.hear(&told(2, 0..4, 1, 9), a);
        let log_id = LogId(uuid::Uuid::from_u128(2));
        assert_eq!(tickets.mint().1.map(|(log_id, _)| log_id), Some(log_id), "another log's");
        tickets.end(a);
        assert_eq!(tickets.of(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_of_an_ex_owner_is_not_used_once_its_follower_was_heard() {
        let tickets = Tickets::default();
        let (old, new) = (Teller::numbered(1), Teller::numbered(2));
        tickets.hear(&told(1, 0..4, 3, 50), old);
        tickets.hear(&told(1, 2..4, 4, 1), new);
        assert_eq!((tickets.of(0), tickets.of(2)), (Some((3, 50)), Some((4, 1))));
        tickets.hear(&told(1, 0..4, 3, 51), old);
        assert_eq!((tickets.of(0), tickets.of(2)), (Some((3, 51)), Some((4, 1))));
        // Each owner's end is its own; what it gave out stays known as past.
        tickets.end(new);
        assert_eq!((tickets.of(0), tickets.of(2)), (Some((3, 51)), None));
        tickets.hear(&told(1, 0..4, 3, 52), old);
        assert_eq!(tickets.of(2), None, "the old one's again");
        for _ in 0..100 {
            let (xid, ticket) = tickets.mint();
            assert!(partition_of(xid, 4).0 < 2 && ticket.is_some(), "only where a ticket is good");
        }
        tokio::time::advance(EPOCH_HOLDS_FOR).await;
        tickets.hear(&told(1, 0..4, 3, 99), old);
        assert_eq!(tickets.of(2), Some((3, 99)), "a restored log begins below");
    }
}
