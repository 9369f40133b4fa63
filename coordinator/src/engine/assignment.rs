//! What a partition's task is told about whose partition it is to be.

use tokio::sync::watch;
use unanimity_types::PartitionId;

use super::request::Turn;

/// Whose a partition is to be. Advice: leases keep nodes from fighting, and the log decides who owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// This node's.
    Mine {
        /// Whether its lease is to be had, as far as is known. If another node has it, that one hands it over.
        free: bool,
    },
    /// Not this node's: one that has it hands it over.
    NotMine {
        /// To whom, if there is somebody.
        to: Option<Heir>,
    },
    /// No node's that lives: one that has it keeps it, and the others leave it alone.
    Nobodys {
        /// Why.
        why: String,
    },
}

/// The node that is to have a partition next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heir {
    /// Its name.
    pub node: String,
    /// Its address.
    pub address: String,
}

impl Assignment {
    /// Whose the partition is to be.
    pub(super) const fn turn(&self) -> Turn {
        match self {
            Self::Mine { .. } => Turn::Here,
            Self::NotMine { to: Some(_) } | Self::Nobodys { .. } => Turn::Elsewhere,
            Self::NotMine { to: None } => Turn::Nobody,
        }
    }

    /// Whether the partition is to be this node's.
    #[must_use]
    pub const fn is_mine(&self) -> bool {
        matches!(self, Self::Mine { .. })
    }
}

/// The assignments of all partitions, to be told to an engine.
#[derive(Debug)]
pub struct Assignments(Vec<watch::Sender<Assignment>>);

impl Assignments {
    /// For so many partitions, none of which is this node's yet.
    #[must_use]
    pub fn none(partitions: u16) -> Self {
        let nobody = || watch::Sender::new(Assignment::NotMine { to: None });
        Self((0..partitions).map(|_| nobody()).collect())
    }

    /// Tells a partition, if it does not know. Answers whether that is news.
    pub fn tell(&self, partition: PartitionId, assignment: Assignment) -> bool {
        let Some(sender) = self.0.get(usize::from(partition.0)) else { return false };
        sender.send_if_modified(|known| {
            let news = *known != assignment;
            *known = assignment;
            news
        })
    }

    /// What a partition was told last.
    #[must_use]
    pub fn of(&self, partition: PartitionId) -> Option<Assignment> {
        self.0.get(usize::from(partition.0)).map(|sender| sender.borrow().clone())
    }

    /// What an engine listens to.
    #[must_use]
    pub fn listen(&self) -> Vec<watch::Receiver<Assignment>> {
        self.0.iter().map(watch::Sender::subscribe).collect()
    }
}
