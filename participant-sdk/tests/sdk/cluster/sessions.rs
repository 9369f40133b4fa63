//! The sessions of a participant with every node.

use std::time::Duration;

use sqlx::Sqlite;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::coordinator_message::Kind;
use unanimity_proto::v1::{self, Operation};
use unanimity_sdk::{Fence, Health, Participant};

use crate::fence::{context, key};
use crate::support::cluster::Cluster;
use crate::support::databases::{Guard, fence};
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::stock::{Reserve, stock, take};

async fn attached(cluster: &Cluster) -> (Participant<Sqlite>, Fence<Sqlite>, Reserve, Guard) {
    let (fence, guard) = fence::<Sqlite>().await.unwrap();
    let hooks = Reserve::default();
    let participant = Participant::builder("inventory", fence.clone())
        .tcc("reserve", hooks.clone())
        .in_doubt_after(Duration::from_secs(600))
        .attach(&cluster.client())
        .await
        .unwrap();
    (participant, fence, hooks, guard)
}

/// The nodes with an open session, and how many are told of.
fn sessions(health: &Health) -> (Vec<&str>, usize) {
    let open = health.nodes.iter().filter(|node| node.attached).map(|node| node.node.as_str());
    (open.collect(), health.nodes.len())
}

async fn has_sessions(participant: &Participant<Sqlite>, open: &[&str], told: usize) {
    eventually(&format!("sessions with {open:?} of {told}"), async || {
        sessions(&participant.health().await.unwrap()) == (open.to_vec(), told)
    })
    .await;
}

#[tokio::test]
async fn a_participant_is_attached_to_every_node_once() {
    let mut cluster = Cluster::start(3).await;
    let (participant, fence, _, _guard) = attached(&cluster).await;
    has_sessions(&participant, &["n0", "n1", "n2"], 3).await;
    let hellos =
        || cluster.nodes.iter().map(|node| node.fake.with(|state| state.hellos.len())).collect::<Vec<_>>();
    assert_eq!(hellos(), [1, 1, 1]);
    // Whichever owns a branch's transaction calls it.
    for place in 0..3 {
        let (context, xid) = context();
        participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
        let node = &cluster.nodes[place].fake;
        assert_eq!(node.deliver(Operation::Confirm, xid, &key()).await.0, Outcome::Done);
    }
    assert_eq!(stock(fence.pool()).await, (97, 0, 3));
    // One dies: nobody else's session is concerned, and it is met again.
    cluster.nodes[1].gate.shut();
    has_sessions(&participant, &["n0", "n2"], 3).await;
    let health = participant.health().await.unwrap();
    assert!(health.attached && health.node.is_some());
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.nodes[1].gate.open().await;
    has_sessions(&participant, &["n0", "n1", "n2"], 3).await;
    let hellos: Vec<_> =
        cluster.nodes.iter().map(|node| node.fake.with(|state| state.hellos.len())).collect();
    assert_eq!((hellos[0], hellos[1], hellos[2]), (1, 2, 1));
    participant.shutdown().await;
    assert!(cluster.nodes.iter().all(|node| node.fake.with(|state| state.goodbyes) == 1));
}

#[tokio::test]
async fn sessions_follow_joins_and_leaves() {
    let mut cluster = Cluster::start(3).await;
    cluster.tell(&[0, 1], 1);
    let (participant, _, _, _guard) = attached(&cluster).await;
    has_sessions(&participant, &["n0", "n1"], 2).await;
    cluster.tell(&[0, 1, 2], 2);
    has_sessions(&participant, &["n0", "n1", "n2"], 3).await;
    // It says goodbye, and nobody tells of it any more.
    cluster.nodes[1].fake.send(Kind::Goodbye(v1::Goodbye { reason: "stops".into() })).await;
    cluster.tell(&[0, 2], 3);
    cluster.nodes[1].gate.shut();
    has_sessions(&participant, &["n0", "n2"], 2).await;
    // At another address it is the same node.
    let port = cluster.nodes[1].fake.port();
    cluster.nodes[1].gate = Gate::before(port).await;
    cluster.tell(&[0, 1, 2], 4);
    has_sessions(&participant, &["n0", "n1", "n2"], 3).await;
    participant.shutdown().await;
}

#[tokio::test]
async fn a_participant_finds_its_way_from_a_list_with_dead_entries() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[0].gate.shut();
    cluster.nodes[2].gate.shut();
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let client = cluster.builder(&[0, 1]).connect().unwrap();
    let builder = Participant::builder("inventory", fence).tcc("reserve", Reserve::default());
    let participant = builder.attach(&client).await.unwrap();
    has_sessions(&participant, &["n1"], 3).await;
    cluster.nodes[2].gate.open().await;
    has_sessions(&participant, &["n1", "n2"], 3).await;
    // All go; the one that comes back first is found, whichever it is.
    cluster.nodes[1].gate.shut();
    cluster.nodes[2].gate.shut();
    has_sessions(&participant, &[], 3).await;
    assert!(!participant.health().await.unwrap().attached);
    cluster.nodes[0].gate.open().await;
    has_sessions(&participant, &["n0"], 3).await;
    participant.shutdown().await;
}

/// A node that is met at another address than it advertises has one session, and is called by it.
#[tokio::test]
async fn a_node_behind_another_address_is_attached_to_once() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0].fake;
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let builder = Participant::builder("inventory", fence).tcc("reserve", Reserve::default());
    // Both lead to it: the one that is given, and the gate's, which it advertises.
    let participant = builder.attach(&node.client()).await.unwrap();
    has_sessions(&participant, &["n0"], 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.with(|state| state.hellos.len()), 1);
    // It breaks, and is there again, once.
    node.break_session();
    cluster.nodes[0].fake.tell();
    eventually("another session", async || node.with(|state| state.hellos.len()) >= 2).await;
    has_sessions(&participant, &["n0"], 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.with(|state| state.hellos.len()), 2);
    participant.shutdown().await;
}

/// Both the owner and whoever was it send the operation: the fence lets one do it.
#[tokio::test]
async fn the_same_operation_of_two_owners_runs_one_hook() {
    let cluster = Cluster::start(2).await;
    let (participant, fence, hooks, _guard) = attached(&cluster).await;
    has_sessions(&participant, &["n0", "n1"], 2).await;
    for round in 1..=20_u32 {
        let (context, xid) = context();
        participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
        let branch = key();
        let (a, b) = tokio::join!(
            cluster.nodes[0].fake.deliver(Operation::Confirm, xid, &branch),
            cluster.nodes[1].fake.deliver(Operation::Confirm, xid, &branch),
        );
        assert_eq!((a.0, b.0), (Outcome::Done, Outcome::Done));
        assert_eq!(hooks.counts(), (round, round, 0));
    }
    assert_eq!(stock(fence.pool()).await, (80, 0, 20));
    participant.shutdown().await;
}

/// In doubt, a participant asks whoever lives.
#[tokio::test]
async fn branches_in_doubt_are_asked_about_at_any_living_node() {
    let mut cluster = Cluster::start(3).await;
    let (fence, _guard) = fence::<Sqlite>().await.unwrap();
    let hooks = Reserve::default();
    let participant = Participant::builder("inventory", fence.clone())
        .tcc("reserve", hooks.clone())
        .in_doubt_after(Duration::from_millis(200))
        .in_doubt_every(Duration::from_millis(100))
        .attach(&cluster.client())
        .await
        .unwrap();
    has_sessions(&participant, &["n0", "n1", "n2"], 3).await;
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    cluster.nodes[0].gate.shut();
    cluster.nodes[1].gate.shut();
    for node in &cluster.nodes {
        node.fake.answer(xid, "committed", true);
    }
    eventually("it is settled", async || stock(fence.pool()).await == (99, 0, 1)).await;
    assert_eq!(hooks.counts(), (1, 1, 0));
    // Witnesses are shown to whomever is asked, whoever told them.
    let inquiries = cluster.nodes[2].fake.with(|state| state.inquiries.clone());
    assert!(inquiries.iter().any(|inquiry| inquiry.witnesses.iter().any(|witness| witness.seq > 0)));
    participant.shutdown().await;
}

/// A cluster of one node, which is told of under a second name as well: as one that was made anew under another name,
/// or stands at two addresses.
async fn with_two_names() -> (Cluster, Gate) {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0].fake;
    let gate = Gate::before(node.port()).await;
    let second = v1::ClusterNode { node: "n1".into(), address: gate.url(), draining: false };
    node.with(|state| state.topology.as_mut().unwrap().nodes.push(second));
    node.tell();
    (cluster, gate)
}

/// Whoever looks for a node and meets another one ends nobody's session.
#[tokio::test]
async fn a_node_under_two_names_keeps_its_session() {
    let (cluster, _gate) = with_two_names().await;
    let node = &cluster.nodes[0].fake;
    let (participant, fence, _, _guard) = attached(&cluster).await;
    has_sessions(&participant, &["n0"], 2).await;
    eventually("it is looked for again and again", async || node.with(|state| state.refused.len()) >= 4)
        .await;
    assert!(node.with(|state| state.refused.iter().all(|meant| meant == "n1")));
    assert_eq!(node.with(|state| state.hellos.len()), 1, "and the session is still the first");
    has_sessions(&participant, &["n0"], 2).await;
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    assert_eq!(node.deliver(Operation::Confirm, xid, &key()).await.0, Outcome::Done);
    assert_eq!(stock(fence.pool()).await, (99, 0, 1));
    participant.shutdown().await;
}

/// The same where the node does not know whom a hello means: the younger session is the one that both sides keep.
#[tokio::test]
async fn of_two_sessions_with_one_node_the_younger_is_kept_on_both_sides() {
    let (cluster, _gate) = with_two_names().await;
    let node = &cluster.nodes[0].fake;
    node.with(|state| state.takes_any = true);
    let (participant, fence, _, _guard) = attached(&cluster).await;
    eventually("both keepers have been there", async || {
        node.with(|state| state.hellos.iter().any(|hello| hello.node == "n1"))
    })
    .await;
    has_sessions(&participant, &["n0"], 2).await;
    // Each meets it once or, where both come at the same moment, twice: no more, however long that goes on.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let hellos = node.with(|state| state.hellos.len());
    assert!((2..=4).contains(&hellos), "{hellos} sessions");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.with(|state| state.hellos.len()), hellos);
    let (context, xid) = context();
    participant.try_in::<Reserve>(&context, take(1)).await.unwrap();
    assert_eq!(node.deliver(Operation::Confirm, xid, &key()).await.0, Outcome::Done);
    assert_eq!(stock(fence.pool()).await, (99, 0, 1));
    participant.shutdown().await;
}
