//! Nodes that die, hang, leave and come back, in the middle of every kind of command.

use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::v1;
use unanimity_sdk::{Client, Handover, NewBranch, StepTarget, Xid};
use unanimity_types::partition_of;

use crate::support::cluster::{Cluster, PARTITIONS};
use crate::support::eventually;
use crate::support::fake::State;

async fn order(client: &Client) -> Result<(), unanimity_sdk::TransactionError<std::io::Error>> {
    client.transaction("x").durable().run(async |_| Ok::<_, std::io::Error>(())).await
}

/// An xid whose owner is the node at this place.
fn xid_of(cluster: &Cluster, place: usize) -> Xid {
    std::iter::repeat_with(|| Xid::new(uuid::Uuid::new_v4()))
        .find(|xid| cluster.owner(*xid) == place)
        .unwrap()
}

fn branch(bytes: usize) -> NewBranch {
    let target = StepTarget::http;
    NewBranch::tcc(target("http://127.0.0.1:1/confirm"), target("http://127.0.0.1:1/cancel"))
        .payload_bytes(vec![7; bytes])
}

/// What a node was asked of one xid, as words that can be compared.
fn asked(state: &State, xid: Xid) -> Vec<String> {
    let xid = xid.to_string();
    let mut all: Vec<String> = Vec::new();
    all.extend(state.begun.iter().filter(|asked| asked.xid == xid).map(|asked| format!("{asked:?}")));
    all.extend(state.registered.values().filter(|asked| asked.xid == xid).map(|asked| format!("{asked:?}")));
    all.extend(state.commits.iter().filter(|asked| asked.xid == xid).map(|asked| format!("{asked:?}")));
    all.extend(state.aborts.iter().filter(|asked| **asked == xid).map(|asked| format!("abort {asked}")));
    all.extend(state.gets.iter().filter(|asked| asked.xid == xid).map(|asked| format!("{asked:?}")));
    all
}

/// M3: whatever the command, its node dies when it has done it and not answered: another one is asked, at once, with the
/// same words, and its answer is the answer.
#[tokio::test]
async fn m3_every_kind_of_command_is_asked_again_elsewhere_with_the_same_words() {
    for kind in ["begin", "register", "register much", "commit", "abort", "get"] {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.met().await;
        let xid = xid_of(&cluster, 1);
        let begin = || client.transaction("x").xid(xid).timeout(Duration::from_secs(30)).begin();
        let tx = if kind == "begin" { None } else { Some(begin().await.unwrap()) };
        if kind == "get" {
            for node in &cluster.nodes {
                let told = v1::Transaction {
                    xid: xid.to_string(),
                    status: v1::Status::Committed.into(),
                    ..Default::default()
                };
                node.fake.with(|state| state.told.insert(xid.to_string(), told));
            }
        }
        let before = cluster.nodes[1].fake.with(|state| asked(state, xid).len());
        cluster.nodes[1].fake.with(|state| state.hang = true);
        let client = client.clone();
        let calling = tokio::spawn(async move {
            match (kind, tx) {
                ("register", Some(tx)) => tx.register(branch(10)).await.map(drop),
                ("register much", Some(tx)) => tx.register(branch(900_000)).await.map(drop),
                ("commit", Some(tx)) => {
                    tx.commit().await.unwrap();
                    Ok(())
                }
                ("abort", Some(tx)) => tx.abort().await,
                ("get", Some(_)) => client.status(xid).await.map(drop),
                _ => client.transaction("x").xid(xid).begin().await.map(drop),
            }
        });
        eventually(kind, async || cluster.nodes[1].fake.with(|state| asked(state, xid).len()) > before).await;
        let started = Instant::now();
        cluster.nodes[1].gate.shut();
        calling.await.unwrap().unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(started.elapsed() < Duration::from_secs(5), "{kind}: {:?}", started.elapsed());
        let lost = cluster.nodes[1].fake.with(|state| asked(state, xid)[before..].to_vec());
        let answered: Vec<_> = [0, 2]
            .iter()
            .flat_map(|place| cluster.nodes[*place].fake.with(|state| asked(state, xid)))
            .collect();
        assert!(answered.contains(&lost[0]), "{kind}: {lost:?} {answered:?}");
    }
}

#[tokio::test]
async fn a_list_is_as_good_as_its_living_entries() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[0].gate.shut();
    cluster.nodes[1].gate.shut();
    let started = Instant::now();
    // One string; all three are still told of.
    let urls: Vec<_> = cluster.nodes.iter().map(|node| node.gate.url()).collect();
    let client = Client::connect(urls.join(",")).unwrap();
    for _ in 0..20 {
        order(&client).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(cluster.nodes[2].fake.with(|state| state.commits.len()), 20);
    // They come up: their partitions' calls go to them.
    cluster.nodes[0].gate.open().await;
    cluster.nodes[1].gate.open().await;
    eventually("all are asked", async || {
        order(&client).await.unwrap();
        cluster.nodes.iter().all(|node| node.fake.with(|state| !state.commits.is_empty()))
    })
    .await;
}

/// A stopped process keeps its connections: nothing breaks, and yet no caller waits for its whole time.
#[tokio::test]
async fn a_node_that_is_stopped_with_its_connections_open_is_left_in_time() {
    let cluster = Cluster::start(3).await;
    let client = cluster.met().await;
    cluster.nodes[1].gate.freeze(true);
    let started = Instant::now();
    let xid = xid_of(&cluster, 1);
    let begun = client.transaction("x").xid(xid).begin().await.unwrap();
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(9), "{waited:?}");
    // From now on nobody waits for it.
    let started = Instant::now();
    begun.commit().await.unwrap();
    for _ in 0..20 {
        order(&client).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    cluster.nodes[1].gate.freeze(false);
    eventually("it is asked again", async || {
        let before = cluster.nodes[1].fake.with(|state| state.commits.len());
        order(&client).await.unwrap();
        cluster.nodes[1].fake.with(|state| state.commits.len()) > before
    })
    .await;
}

#[tokio::test]
async fn a_node_leaves_and_comes_back_at_another_address() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.met().await;
    cluster.tell(&[0, 2], 2);
    cluster.nodes[1].gate.shut();
    for _ in 0..50 {
        order(&client).await.unwrap();
    }
    let before = cluster.nodes[1].fake.with(|state| (state.streams, state.commits.len()));
    let port = cluster.nodes[1].fake.port();
    cluster.nodes[1].gate = crate::support::gate::Gate::before(port).await;
    cluster.tell(&[0, 1, 2], 3);
    eventually("it is asked at its new address", async || {
        order(&client).await.unwrap();
        cluster.nodes[1].fake.with(|state| state.commits.len()) > before.1
    })
    .await;
    assert_eq!(cluster.nodes[1].fake.with(|state| state.streams), before.0 + 1);
}

/// Transactions begin without a call while any owner is heard of, and never with the ticket of one that is not.
#[tokio::test]
async fn transactions_are_minted_where_an_owner_is_heard_of() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.met().await;
    cluster.nodes[1].gate.shut();
    // Seen by the stream that breaks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = || cluster.nodes.iter().map(|node| node.fake.with(|state| state.begun.len())).sum::<usize>();
    let before = begun();
    for _ in 0..100 {
        let tx = client.begin("x").await.unwrap();
        assert_ne!(cluster.owner(tx.xid()), 1);
        assert!(partition_of(tx.xid(), PARTITIONS).0 != 1);
        tx.commit().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(begun(), before);
}

/// The last node's word stands when all are gone: whoever comes back is found.
#[tokio::test]
async fn all_nodes_may_go_and_come_back() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.met().await;
    for node in &mut cluster.nodes {
        node.gate.shut();
    }
    let calling = {
        let client = client.clone();
        tokio::spawn(async move { client.transaction("x").durable().begin().await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Not the one that was given.
    cluster.nodes[2].gate.open().await;
    calling.await.unwrap().unwrap();
    cluster.without_tickets();
    order(&client).await.unwrap();
}

/// The owner of what is asked about is dead, and the node that is asked waits for it longer than its caller does: another
/// node may know better, and is asked within the caller's time.
#[tokio::test]
async fn who_waits_for_a_dead_owner_is_not_the_only_one_to_be_asked() {
    let cluster = Cluster::start(2).await;
    let limit = Duration::from_secs(4);
    let client = cluster.builder(&[0]).call_timeout(limit).begin_retry_for(limit).connect().unwrap();
    order(&client).await.unwrap();
    eventually("a stream to both", async || {
        cluster.nodes.iter().all(|node| node.fake.with(|state| state.streams) == 1)
    })
    .await;
    let xid = xid_of(&cluster, 1);
    // It says that it lives, and nothing else.
    cluster.nodes[1].fake.with(|state| state.hang = true);
    let started = Instant::now();
    let begun = client.transaction("x").xid(xid).begin().await.unwrap();
    assert!(started.elapsed() < limit + Duration::from_secs(1), "{:?}", started.elapsed());
    client.status(xid).await.unwrap();
    begun.abort().await.unwrap();
    assert!(cluster.nodes[0].fake.with(|state| state.aborts.contains(&xid.to_string())));
}

/// The nodes' own rule for what is no repetition but a second action: it is sent again only where it was surely not taken.
#[tokio::test]
async fn m3_an_operators_retry_is_repeated_only_if_it_was_not_taken() {
    let mut cluster = Cluster::start(2).await;
    let limit = Duration::from_secs(4);
    let client = cluster.builder(&[0, 1]).call_timeout(limit).connect().unwrap();
    order(&client).await.unwrap();
    eventually("a stream to both", async || {
        cluster.nodes.iter().all(|node| node.fake.with(|state| state.streams) == 1)
    })
    .await;
    let retries = |cluster: &Cluster| -> Vec<usize> {
        cluster.nodes.iter().map(|node| node.fake.with(|state| state.retries.len())).collect()
    };
    let xid = xid_of(&cluster, 1);
    Handover::retry(&client, xid).await.unwrap();
    assert_eq!(retries(&cluster), [0, 1]);
    // Taken, and never answered.
    cluster.nodes[1].fake.with(|state| state.hang = true);
    Handover::retry(&client, xid).await.unwrap_err();
    assert_eq!(retries(&cluster), [0, 2], "nobody knows whether it was done, so it is not done again");
    // Not taken: it is another's.
    let other = cluster.nodes[0].gate.url();
    cluster.nodes[1].fake.with(|state| (state.hang, state.owner_at) = (false, Some(other)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    Handover::retry(&client, xid).await.unwrap();
    let after = retries(&cluster);
    assert_eq!(after[0], 1, "{after:?}");
    // Not sent: there is no connection.
    cluster.nodes[1].fake.with(|state| state.owner_at = None);
    cluster.nodes[1].gate.shut();
    tokio::time::sleep(Duration::from_millis(200)).await;
    Handover::retry(&client, xid).await.unwrap();
    assert_eq!(retries(&cluster), [2, after[1]]);
}
