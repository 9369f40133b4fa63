//! Where commands go while all is well, and what hints do.

use std::collections::HashSet;
use std::time::Duration;

use unanimity_proto::v1;
use unanimity_sdk::{Client, ClientError, ErrorCode};

use crate::support::cluster::{Cluster, PARTITIONS};
use crate::support::eventually;
use crate::support::fake::Fake;

async fn order(client: &Client) -> Result<(), unanimity_sdk::TransactionError<std::io::Error>> {
    client.transaction("x").run(async |_| Ok::<_, std::io::Error>(())).await
}

#[tokio::test]
async fn one_node_tells_of_the_others_and_each_is_asked_about_its_own() {
    let cluster = Cluster::start(3).await;
    let client = cluster.met().await;
    let begun = || cluster.nodes.iter().map(|node| node.fake.with(|state| state.begun.len())).sum::<usize>();
    let before = begun();
    eventually("commits at every node", async || {
        order(&client).await.unwrap();
        // Each xid is of a streak of 20 ms.
        tokio::time::sleep(Duration::from_millis(5)).await;
        cluster.nodes.iter().all(|node| node.fake.with(|state| state.commits.len()) > 3)
    })
    .await;
    assert_eq!(begun(), before, "every owner's stream brings its tickets");
    for (place, node) in cluster.nodes.iter().enumerate() {
        let commits = node.fake.with(|state| state.commits.clone());
        let (births, begun): (Vec<_>, Vec<_>) = commits.iter().partition(|commit| commit.birth.is_some());
        assert!(births.iter().all(|commit| cluster.owner(commit.xid.parse().unwrap()) == place));
        assert!(begun.len() <= 1, "the first, which nothing was known of");
    }
    // M17: how many partitions there are is learned.
    assert_eq!(PARTITIONS, 4);
}

#[tokio::test]
async fn a_node_that_answers_at_another_address_than_it_advertises_is_met_once() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0].fake;
    // The advertised address, the gate's, is none that can be reached from here.
    let mut dead = crate::support::gate::Gate::before(1).await;
    dead.shut();
    node.with(|state| state.topology.as_mut().unwrap().nodes[0].address = dead.url());
    let client = node.client();
    for _ in 0..20 {
        order(&client).await.unwrap();
    }
    assert_eq!(node.with(|state| state.streams), 1);
    assert_eq!(node.with(|state| state.commits.len()), 20);
}

#[tokio::test]
async fn a_hint_is_followed_at_once_and_remembered() {
    let (asked, owner) = (Fake::start().await, Fake::start().await);
    asked.with(|state| {
        state.owner_at = Some(owner.url());
        // Nobody tells of the owner but the hint.
        state.tickets =
            Some(v1::Tickets { tickets: Vec::new(), partitions: 1, log_id: state.log_id.to_string() });
    });
    let client = asked.client();
    let started = tokio::time::Instant::now();
    for _ in 0..5 {
        client.transaction("x").durable().run(async |_| Ok::<_, std::io::Error>(())).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    let (begun, commits) = owner.with(|state| (state.begun.clone(), state.commits.len()));
    assert_eq!((begun.len(), commits), (5, 5));
    // The first begin, and perhaps what was asked before the hint had told where everything is.
    let wasted = asked.with(|state| state.begun.clone());
    assert!(wasted.len() <= 2, "{}", wasted.len());
    assert_eq!(wasted[0], begun[0], "the same words");
}

#[tokio::test]
async fn hints_that_send_a_call_in_a_circle_end() {
    let (a, b) = (Fake::start().await, Fake::start().await);
    a.with(|state| state.owner_at = Some(b.url()));
    b.with(|state| state.owner_at = Some(a.url()));
    let bound = Duration::from_millis(600);
    let client = Client::builder([a.url(), b.url()]).begin_retry_for(bound).connect().unwrap();
    let error = client.transaction("x").durable().begin().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: ErrorCode::NotOwner, .. }), "{error}");
    let asked = a.with(|state| state.begun.len()) + b.with(|state| state.begun.len());
    // Each at most once between two pauses; full jitter makes a dozen pauses of that time very many.
    assert!((2..=60).contains(&asked), "{asked}");
    // Nonsense is no hint.
    a.with(|state| state.owner_at = Some("no address".into()));
    b.with(|state| state.owner_at = None);
    order(&client).await.unwrap();
}

#[tokio::test]
async fn hints_to_ever_new_addresses_are_bounded() {
    let fake = Fake::start().await;
    let client = Client::builder(fake.url()).begin_retry_for(Duration::from_millis(200)).connect().unwrap();
    for port in 1..60 {
        fake.with(|state| state.owner_at = Some(format!("http://127.0.0.1:{port}")));
        client.transaction("x").durable().begin().await.unwrap_err();
        if port > 20 {
            break;
        }
    }
    fake.with(|state| state.owner_at = None);
    client.transaction("x").durable().begin().await.unwrap();
    let xids: HashSet<_> = fake.with(|state| state.begun.iter().map(|begun| begun.xid.clone()).collect());
    assert_eq!(xids.len(), 22);
}
