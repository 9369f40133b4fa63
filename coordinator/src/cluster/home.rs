//! A node of a cluster as the sessions that are attached to it see it.

use std::sync::Arc;

use futures::future::BoxFuture;
use unanimity_types::{LogId, LogPosition, Name};

use super::news::TopologyNews;
use super::route::Router;
use crate::delivery::Home;
use crate::engine::{Coordinator, Error};

/// The engine, with what sessions are told of the other nodes.
#[derive(Debug, Clone)]
pub struct MemberHome {
    /// The engine.
    pub coordinator: Coordinator,
    /// The way to other nodes.
    pub router: Arc<Router>,
}

impl Home for MemberHome {
    fn log_id(&self) -> LogId {
        self.coordinator.log_id()
    }

    fn partitions(&self) -> u16 {
        Home::partitions(&self.coordinator)
    }

    fn node(&self) -> String {
        Home::node(&self.coordinator)
    }

    fn positions(&self) -> Vec<LogPosition> {
        self.coordinator.positions()
    }

    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), Error>> {
        Home::witness(&self.coordinator, positions)
    }

    fn participant_available(&self, participant: Name) -> BoxFuture<'_, ()> {
        Home::participant_available(&self.coordinator, participant)
    }

    fn topology(&self) -> Option<TopologyNews> {
        Some(self.router.news())
    }
}
