//! The tickets that the coordinator gave out last, by partition (protocol 1.2).

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::{ticket_from_wire, v1};
use unanimity_types::{LogId, SLOTS, Ticket, Xid, partition_of};

use crate::client::calls::parse_log_id;
use crate::client::streak::Streak;

/// A ticket that was heard longer ago is not used: whoever gave it out has not been heard of for a
/// generation, so a begin by call, which finds out, is the better way.
const FRESH_FOR: Duration = Duration::from_secs(15);

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
    /// By partition: the ticket, and when it was heard.
    tickets: Vec<Option<(Ticket, Instant)>>,
}

impl Tickets {
    /// Takes what a coordinator says. What is impossible is left out: then transactions begin by call.
    pub(crate) fn hear(&self, told: &v1::Tickets) {
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
            if let (Some(ticket), Some(place)) = (ticket, place) {
                *place = Some((ticket, now));
            }
        }
    }

    /// A new xid, and what to stamp it with if something recent is known about its partition.
    pub(crate) fn mint(&self) -> (Xid, Option<(LogId, Ticket)>) {
        let partitions = self.heard.read().unwrap_or_else(PoisonError::into_inner).partitions;
        let xid = self.streak.lock().unwrap_or_else(PoisonError::into_inner).mint(partitions);
        (xid, self.ticket_for(xid))
    }

    /// What to stamp an xid with, and whose ticket it is; `None` if nothing recent is known about its partition.
    fn ticket_for(&self, xid: Xid) -> Option<(LogId, Ticket)> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        if heard.partitions == 0 {
            return None;
        }
        let partition = partition_of(xid, heard.partitions);
        let (ticket, at) = heard.tickets.get(usize::from(partition.0)).copied().flatten()?;
        (at.elapsed() < FRESH_FOR).then_some((heard.log_id?, ticket))
    }

    /// Forgets all: they belong to another log, or to nobody.
    pub(crate) fn clear(&self) {
        self.heard.write().unwrap_or_else(PoisonError::into_inner).tickets.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_while_its_owner_is_heard_of() {
        let tickets = Tickets::default();
        let xid = Xid::new(uuid::Uuid::new_v4());
        assert_eq!(tickets.ticket_for(xid), None);
        let ticket = |generation| v1::Ticket { epoch: 3, epoch_tag: 7, generation };
        let told = |log, generation| v1::Tickets {
            tickets: (0..4)
                .map(|partition| v1::PartitionTicket { partition, ticket: Some(ticket(generation)) })
                .collect(),
            partitions: 4,
            log_id: uuid::Uuid::from_u128(log).to_string(),
        };
        tickets.hear(&told(1, 8));
        assert_eq!(tickets.ticket_for(xid).map(|(_, ticket)| ticket.generation), Some(8));
        tickets.hear(&v1::Tickets { partitions: 100_000, ..told(1, 9) });
        assert_eq!(
            tickets.ticket_for(xid).map(|(_, ticket)| ticket.generation),
            Some(8),
            "nonsense is not heard"
        );
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(tickets.ticket_for(xid), None);
        tickets.hear(&told(1, 9));
        assert!(tickets.ticket_for(xid).is_some());
        tickets.hear(&told(2, 9));
        let log_id = LogId(uuid::Uuid::from_u128(2));
        assert_eq!(tickets.ticket_for(xid).map(|(log_id, _)| log_id), Some(log_id), "another log's");
        tickets.clear();
        assert_eq!(tickets.ticket_for(xid), None);
    }
}
