//! Which topology a client or a participant is owed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_proto::v1;

use super::map::Map;

/// How often the topology is told again, news or not.
const AGAIN_INTERVAL: Duration = Duration::from_secs(10);

/// What one stream was told of the cluster, and what it is owed: the topology at once, when it changed, and every
/// ten seconds.
#[derive(Debug)]
pub struct TopologyNews {
    node: String,
    map: watch::Receiver<Arc<Map>>,
    told: Option<v1::Topology>,
    due: bool,
    again_at: Instant,
}

impl TopologyNews {
    /// For a stream of the node `node`, which was told nothing yet.
    #[must_use]
    pub fn new(node: String, map: watch::Receiver<Arc<Map>>) -> Self {
        Self { node, map, told: None, due: true, again_at: Instant::now() }
    }

    /// Resolves when the node looked at its cluster again; never without news, or if it looks no more.
    pub async fn changed(news: &mut Option<Self>) {
        let Some(news) = news else { return std::future::pending().await };
        if news.map.changed().await.is_err() {
            return std::future::pending().await;
        }
        news.due |= news.told.as_ref() != Some(&news.now());
    }

    /// Whether something is owed at this moment.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.due |= now >= self.again_at;
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
        self.map.mark_unchanged();
        let topology = self.now();
        self.told = Some(topology.clone());
        self.due = false;
        self.again_at = now + AGAIN_INTERVAL;
        Some(topology)
    }

    fn now(&self) -> v1::Topology {
        self.map.borrow().to_wire(&self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Member;

    #[tokio::test(start_paused = true)]
    async fn a_topology_is_told_at_once_when_it_changed_and_every_ten_seconds() {
        let map = watch::Sender::new(Arc::new(Map::default()));
        let mut news = Some(TopologyNews::new("a".to_owned(), map.subscribe()));
        assert_eq!(news.take(Instant::now()).expect("the first").told_by, "a");
        assert_eq!(news.take(Instant::now()), None);
        // Another look that found the same is no news.
        map.send_replace(Arc::new(Map::default()));
        news.changed().await;
        assert_eq!(news.take(Instant::now()), None);
        let member = Member { node: "b".to_owned(), address: "http://b".to_owned(), draining: false };
        map.send_replace(Arc::new(Map { members: vec![member], ..Map::default() }));
        news.changed().await;
        assert_eq!(news.take(Instant::now()).expect("news").nodes.len(), 1);
        tokio::time::advance(AGAIN_INTERVAL).await;
        assert_eq!(news.take(Instant::now()).expect("again").nodes.len(), 1);
        assert_eq!(news.due_at(), Instant::now() + AGAIN_INTERVAL);
    }
}
