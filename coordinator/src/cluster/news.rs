//! Which topology a client or a participant is owed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_proto::v1;

use super::view::View;

/// How often the topology is told again, news or not.
const AGAIN_INTERVAL: Duration = Duration::from_secs(10);

/// What one stream was told of the cluster, and what it is owed: the topology at once, when it changed, and every
/// ten seconds.
#[derive(Debug)]
pub struct TopologyNews {
    view: watch::Receiver<Arc<View>>,
    told: Option<v1::Topology>,
    due: bool,
    again_at: Instant,
}

impl TopologyNews {
    /// For a stream that was told nothing yet.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, told: None, due: true, again_at: Instant::now() }
    }

    /// Resolves when the node looked at its cluster again; never without news, or if it looks no more.
    pub async fn changed(news: &mut Option<Self>) {
        let Some(news) = news else { return std::future::pending().await };
        if news.view.changed().await.is_err() {
            return std::future::pending().await;
        }
        news.due |= news.told.as_ref() != Some(&news.now());
    }

    /// Whether something is owed at this moment. A node that has not seen its cluster for a lease tells nothing: others
    /// may know better, and their word must not be covered up.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if now >= self.again_at {
            self.due = true;
        }
        if self.view.borrow().stale.is_some() {
            self.again_at = self.again_at.max(now + AGAIN_INTERVAL);
            return false;
        }
        self.due
    }

    /// When something will be owed at the latest.
    #[must_use]
    pub fn due_at(&self) -> Instant {
        self.again_at
    }

    /// What is owed, if something is.
    pub fn take(&mut self, now: Instant) -> Option<v1::Topology> {
        if !self.is_due(now) {
            return None;
        }
        self.view.mark_unchanged();
        let topology = self.now();
        self.told = Some(topology.clone());
        self.due = false;
        self.again_at = now + AGAIN_INTERVAL;
        Some(topology)
    }

    fn now(&self) -> v1::Topology {
        topology(&self.view.borrow())
    }
}

/// The cluster for the wire.
fn topology(view: &View) -> v1::Topology {
    let nodes = view.living().map(|node| v1::ClusterNode {
        node: node.node.clone(),
        address: node.address.clone(),
        draining: node.draining || node.leaving,
    });
    let owners = view.cluster.partitions.iter().filter_map(|row| {
        let (node, _) = view.owner(row.partition)?;
        Some(v1::PartitionOwner { partition: row.partition.0.into(), node: node.to_owned() })
    });
    v1::Topology { nodes: nodes.collect(), owners: owners.collect(), told_by: view.node.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{ClusterView, NodeRow};

    fn view(alive: bool) -> Arc<View> {
        let row = NodeRow {
            node: "b".to_owned(),
            address: "http://b".to_owned(),
            version: String::new(),
            formats: 1,
            servers: None,
            draining: false,
            leaving: false,
            alive,
            silent_for: Duration::ZERO,
            remaining: Duration::from_secs(6),
        };
        Arc::new(View::new("a", ClusterView { nodes: vec![row], ..ClusterView::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_topology_is_told_at_once_when_it_changed_and_every_ten_seconds() {
        let views = watch::Sender::new(view(false));
        let mut news = Some(TopologyNews::new(views.subscribe()));
        let take = |news: &mut Option<TopologyNews>| news.as_mut().and_then(|news| news.take(Instant::now()));
        assert_eq!(take(&mut news).expect("the first").told_by, "a");
        assert_eq!(take(&mut news), None);
        // Another look that found the same is no news.
        views.send_replace(view(false));
        TopologyNews::changed(&mut news).await;
        assert_eq!(take(&mut news), None);
        views.send_replace(view(true));
        TopologyNews::changed(&mut news).await;
        assert_eq!(take(&mut news).expect("news").nodes.len(), 1);
        tokio::time::advance(AGAIN_INTERVAL).await;
        assert_eq!(take(&mut news).expect("again").nodes.len(), 1);
        assert_eq!(news.expect("there").due_at(), Instant::now() + AGAIN_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn m10_a_node_that_does_not_see_its_cluster_tells_no_topology() {
        let seen = view(true);
        let views = watch::Sender::new(Arc::clone(&seen));
        let mut news = Some(TopologyNews::new(views.subscribe()));
        let take = |news: &mut Option<TopologyNews>| news.as_mut().and_then(|news| news.take(Instant::now()));
        assert_eq!(take(&mut news).expect("the first").nodes.len(), 1);
        views.send_replace(Arc::new(View { stale: Some("cut off".to_owned()), ..View::clone(&seen) }));
        TopologyNews::changed(&mut news).await;
        for _ in 0..3 {
            assert_eq!(take(&mut news), None);
            assert!(
                news.as_ref().expect("there").due_at() > Instant::now(),
                "nobody waits for it in a circle"
            );
            tokio::time::advance(AGAIN_INTERVAL).await;
        }
        views.send_replace(seen);
        TopologyNews::changed(&mut news).await;
        assert_eq!(take(&mut news).expect("it sees again").nodes.len(), 1);
    }
}
