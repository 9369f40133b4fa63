//! The nodes over one memory log: several engines in one process make a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use unanimity_types::Timestamp;
use uuid::Uuid;

use crate::log::nodes::{self, FORGET_AFTER};
use crate::log::{Error, NodeBeat, NodeRow};

#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// The format that was agreed, beyond the first.
    raised: u32,
}

#[derive(Debug, Clone)]
struct Node {
    instance: Uuid,
    address: String,
    version: String,
    formats: u32,
    servers: Vec<String>,
    draining: bool,
    leaving: bool,
    heard_at: Timestamp,
    alive_until: Timestamp,
}

impl Nodes {
    /// A node says that it lives. Answers the nodes and the format.
    pub(super) fn beat(
        &mut self,
        beat: &NodeBeat,
        now: Timestamp,
        duration: Duration,
    ) -> Result<(Vec<NodeRow>, u32), Error> {
        let agreed = self.raised + 1;
        nodes::check_format(beat, agreed)?;
        let old = self.nodes.get(&beat.node);
        let bears =
            old.filter(|node| node.alive_until > now).map(|node| (node.instance, node.address.clone()));
        nodes::check_instance(beat, bears)?;
        let draining = old.is_some_and(|node| node.draining);
        if beat.joins {
            self.nodes.retain(|_, node| node.draining || now.since(node.heard_at) <= FORGET_AFTER);
        }
        let node = Node {
            instance: beat.instance,
            address: beat.address.clone(),
            version: beat.version.clone(),
            formats: beat.formats,
            servers: beat.servers.clone(),
            draining,
            leaving: beat.leaving,
            heard_at: now,
            alive_until: now.after(duration),
        };
        self.nodes.insert(beat.node.clone(), node);
        let rows: Vec<NodeRow> = self.nodes.iter().map(|(name, node)| node.row(name, now)).collect();
        let format = nodes::agree(agreed, &rows);
        self.raised = format.saturating_sub(1);
        Ok((rows, format))
    }

    pub(super) fn set_draining(&mut self, node: &str, draining: bool) -> bool {
        self.nodes.get_mut(node).map(|node| node.draining = draining).is_some()
    }
}

impl Node {
    fn row(&self, name: &str, now: Timestamp) -> NodeRow {
        NodeRow {
            node: name.to_owned(),
            address: self.address.clone(),
            version: self.version.clone(),
            formats: self.formats,
            servers: Some(self.servers.clone()),
            draining: self.draining,
            leaving: self.leaving,
            alive: self.alive_until > now,
            silent_for: now.since(self.heard_at),
            remaining: self.alive_until.since(now),
        }
    }
}
