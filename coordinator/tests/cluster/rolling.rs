//! A rolling restart under load: not one call fails.
//!
//! Callers do not repeat anything. Like a load balancer they call nodes that say that they are ready; a call that is
//! under way when its node begins to stop is that node's to answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tonic::transport::Channel;
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use uuid::Uuid;

use crate::nodes::{PARTITIONS, until};
use crate::served::{Served, http_client, partitions_of, start_at};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The nodes that are called, and how many calls each of them has in hand.
#[derive(Default)]
struct Balancer {
    in_service: Mutex<Vec<(String, Arc<AtomicU64>)>>,
}

struct Place {
    url: String,
    calls: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Balancer {
    fn add(&self, url: String) {
        let mut nodes = self.in_service.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.push((url, Arc::default()));
    }

    fn remove(&self, url: &str) {
        let mut nodes = self.in_service.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|(known, _)| known != url);
    }

    fn pick(&self) -> Place {
        let nodes = self.in_service.lock().unwrap_or_else(PoisonError::into_inner);
        let (url, calls) = &nodes[fastrand::usize(..nodes.len())];
        calls.fetch_add(1, Ordering::SeqCst);
        Place { url: url.clone(), calls: Arc::clone(calls) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m12_no_call_fails_in_a_rolling_restart() {
    let mut served = Served::start(&NAMES).await;
    let balancer = Arc::new(Balancer::default());
    (0..3).for_each(|node| balancer.add(served.url(node, "")));
    let (ends, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<String>::new())));
    let done = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (balancer, ends) = (Arc::clone(&balancer), Arc::clone(&ends));
        let (failures, done) = (Arc::clone(&failures), Arc::clone(&done));
        let participant = served.participant;
        callers.spawn(async move {
            let http = http_client();
            while !ends.load(Ordering::SeqCst) {
                let result = if n % 2 == 0 {
                    by_http(&http, &balancer, participant).await
                } else {
                    by_grpc(&balancer, participant).await
                };
                match result {
                    Ok(()) => drop(done.fetch_add(1, Ordering::SeqCst)),
                    Err(failure) => failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure),
                }
            }
        });
    }
    for _ in 0..3 {
        let node = served.nodes.remove(0);
        let (url, address) = (node.url().unwrap(), node.local_addr().unwrap());
        let name = node.coordinator().info().node;
        // Its clients look at its readiness, which ends before it takes no more calls.
        balancer.remove(&url);
        node.shutdown().await;
        let before = done.load(Ordering::SeqCst);
        until("calls without it", || done.load(Ordering::SeqCst) > before + 50).await;
        let node = start_at(&served.log, &name, address).await;
        until("its share", || partitions_of(&node).len() >= usize::from(PARTITIONS) / 3).await;
        balancer.add(node.url().unwrap());
        served.nodes.push(node);
        let before = done.load(Ordering::SeqCst);
        until("calls with it", || done.load(Ordering::SeqCst) > before + 50).await;
    }
    ends.store(true, Ordering::SeqCst);
    while callers.join_next().await.is_some() {}
    let failures = std::mem::take(&mut *failures.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(
        failures.is_empty(),
        "{} of {} failed: {failures:#?}",
        failures.len(),
        done.load(Ordering::SeqCst)
    );
    served.stop().await;
}

/// A transaction by HTTP, each call at any node.
async fn by_http(
    http: &reqwest::Client,
    balancer: &Balancer,
    participant: std::net::SocketAddr,
) -> Result<(), String> {
    let post = async |path: &str, body: serde_json::Value| {
        let place = balancer.pick();
        let url = format!("{}{path}", place.url);
        let response =
            http.post(&url).json(&body).send().await.map_err(|error| format!("{url}: {error:?}"))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| format!("{url}: {error:?}"))?;
        if !status.is_success() {
            return Err(format!("{url}: {status} {text}"));
        }
        serde_json::from_str::<serde_json::Value>(&text).map_err(|error| format!("{url}: {error} {text}"))
    };
    let begun = post("/v1/transactions", json!({ "mode": "tcc" })).await?;
    let xid = begun["xid"].as_str().ok_or("no xid")?.to_owned();
    let target = |operation: &str| json!({ "url": format!("http://{participant}/{operation}") });
    let branch = json!({ "key": "one", "confirm": target("confirm"), "cancel": target("cancel") });
    post(&format!("/v1/transactions/{xid}/branches"), branch).await?;
    let ended = if fastrand::bool() {
        post(&format!("/v1/transactions/{xid}/commit"), json!({ "votes": ["one"], "wait": "finished" }))
            .await?
    } else {
        post(&format!("/v1/transactions/{xid}/abort"), json!({})).await?
    };
    let status = ended["status"].as_str().unwrap_or_default();
    if !["committed", "committing", "aborted", "aborting"].contains(&status) {
        return Err(format!("{xid}: {ended}"));
    }
    Ok(())
}

/// The same by gRPC, with an xid of its own.
async fn by_grpc(balancer: &Balancer, participant: std::net::SocketAddr) -> Result<(), String> {
    let xid = Uuid::now_v7().to_string();
    let client = async || {
        let place = balancer.pick();
        let channel = Channel::from_shared(place.url.clone()).map_err(|error| error.to_string())?;
        let channel = channel.connect().await.map_err(|error| format!("{}: {error:?}", place.url))?;
        Ok::<_, String>((place, CoordinatorClient::new(channel)))
    };
    let failed = |place: &Place, status: tonic::Status| format!("{}: {status:?}", place.url);
    let (place, mut node) = client().await?;
    let begin = v1::BeginRequest { mode: v1::Mode::Tcc.into(), xid: xid.clone(), ..Default::default() };
    node.begin(begin).await.map_err(|status| failed(&place, status))?;
    let target = |operation: &str| {
        Some(v1::Target { kind: Some(v1::target::Kind::Url(format!("http://{participant}/{operation}"))) })
    };
    let (place, mut node) = client().await?;
    let targets =
        v1::BranchTargets { confirm: target("confirm"), cancel: target("cancel"), ..Default::default() };
    let register =
        v1::RegisterBranchRequest { xid: xid.clone(), targets: Some(targets), ..Default::default() };
    let registered = node.register_branch(register).await.map_err(|status| failed(&place, status))?;
    let keys = vec![registered.into_inner().key];
    let (place, mut node) = client().await?;
    let commit =
        v1::CommitRequest { xid: xid.clone(), votes: Some(v1::VoteSet { keys }), ..Default::default() };
    node.commit(commit).await.map_err(|status| failed(&place, status))?;
    let (place, mut node) = client().await?;
    let inquired = node.inquire(v1::InquireRequest { xids: vec![xid.clone()], ..Default::default() }).await;
    let inquired = inquired.map_err(|status| failed(&place, status))?.into_inner();
    // One that nobody owns at the moment may be left out: its participant asks again.
    match inquired.answers.first() {
        Some(answer) if answer.answer != "committed" => Err(format!("{xid}: {answer:?}")),
        _ => Ok(()),
    }
}
