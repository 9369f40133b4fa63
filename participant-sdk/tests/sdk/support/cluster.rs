//! Several scripted coordinators that tell of each other, each behind a gate.

use std::time::Duration;

use unanimity_proto::v1;
use unanimity_sdk::{Client, ClientBuilder, Xid};
use unanimity_types::partition_of;

use super::fake::Fake;
use super::gate::Gate;

/// As many as the fakes welcome participants with.
pub(crate) const PARTITIONS: u16 = 4;

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) fake: Fake,
    pub(crate) gate: Gate,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes `n0`, `n1` and so on; partition `p` is owned by the node `p % count`. They give out tickets.
    pub(crate) async fn start(count: usize) -> Self {
        let mut nodes = Vec::new();
        for place in 0..count {
            let fake = Fake::start().await;
            let gate = Gate::before(fake.port()).await;
            let name = format!("n{place}");
            fake.with(|state| state.node.clone_from(&name));
            nodes.push(Node { name, fake, gate });
        }
        let cluster = Self { nodes };
        cluster.tell(&(0..count).collect::<Vec<_>>(), 1);
        cluster
    }

    /// Lets all nodes tell that only these live, own what there is, and give out tickets of this epoch.
    pub(crate) fn tell(&self, living: &[usize], epoch: u64) {
        for (place, node) in self.nodes.iter().enumerate() {
            let tickets = (0..u32::from(PARTITIONS))
                .filter(|partition| self.owner_of(*partition as usize, living) == place)
                .map(|partition| v1::PartitionTicket {
                    partition,
                    ticket: Some(v1::Ticket { epoch, epoch_tag: 7, generation: 9 }),
                })
                .collect();
            node.fake.with(|state| {
                let log_id = state.log_id.to_string();
                state.tickets = Some(v1::Tickets { tickets, partitions: PARTITIONS.into(), log_id });
                state.topology = Some(self.topology(living, &node.name));
            });
            node.fake.tell();
        }
    }

    fn topology(&self, living: &[usize], told_by: &str) -> v1::Topology {
        let nodes = living.iter().map(|place| v1::ClusterNode {
            node: self.nodes[*place].name.clone(),
            address: self.nodes[*place].gate.url(),
            draining: false,
        });
        let owners = (0..PARTITIONS).map(|partition| v1::PartitionOwner {
            partition: partition.into(),
            node: self.nodes[self.owner_of(partition.into(), living)].name.clone(),
        });
        v1::Topology { nodes: nodes.collect(), owners: owners.collect(), told_by: told_by.to_owned() }
    }

    fn owner_of(&self, partition: usize, living: &[usize]) -> usize {
        living[partition % living.len()]
    }

    /// The place of the owner of an xid, while all live.
    pub(crate) fn owner(&self, xid: Xid) -> usize {
        usize::from(partition_of(xid, PARTITIONS).0) % self.nodes.len()
    }

    /// Lets no node give out tickets: every transaction begins by call.
    pub(crate) fn without_tickets(&self) {
        for node in &self.nodes {
            node.fake.with(|state| state.tickets.as_mut().unwrap().tickets.clear());
        }
    }

    pub(crate) fn builder(&self, places: &[usize]) -> ClientBuilder {
        let urls: Vec<_> = places.iter().map(|place| self.nodes[*place].gate.url()).collect();
        Client::builder(urls)
    }

    /// A client that knows the first node.
    pub(crate) fn client(&self) -> Client {
        self.builder(&[0]).connect().unwrap()
    }

    /// A client that knows all nodes and has streams to all of them.
    pub(crate) async fn met(&self) -> Client {
        let client = self.client();
        client.transaction("first").durable().run(async |_| Ok::<_, std::io::Error>(())).await.unwrap();
        super::eventually("a stream to every node", async || {
            self.nodes.iter().all(|node| node.fake.with(|state| state.streams) == 1)
        })
        .await;
        // What was told on the last of them is heard.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client
    }
}
