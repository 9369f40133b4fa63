//! Who calls by HTTP: no repetition, no knowledge of the cluster, and a load balancer between, which sends new calls to the
//! nodes that it has in rotation.

use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use anyhow::ensure;
use integration_tests::wait::http_client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than a node takes for any answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Between two transactions of one caller.
const PAUSE: Duration = Duration::from_millis(25);

/// What callers heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub(super) calls: usize,
    pub(crate) failed: Vec<String>,
}

/// The callers and their load balancer.
#[derive(Debug)]
pub(crate) struct Web {
    http: reqwest::Client,
    urls: Vec<String>,
    /// By the nodes' places.
    in_rotation: RwLock<Vec<usize>>,
    heard: Mutex<Heard>,
}

impl Web {
    pub(super) fn new(urls: &[String]) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client(ANSWER_LIMIT)?,
            urls: urls.to_vec(),
            in_rotation: RwLock::new((0..urls.len()).collect()),
            heard: Mutex::default(),
        })
    }

    /// A node stops: new calls go to the others. Those that it has are its own to answer.
    pub(crate) fn take_out(&self, place: usize) {
        self.in_rotation.write().unwrap().retain(|other| *other != place);
    }

    /// A node is ready: it gets its share.
    pub(crate) fn take_in(&self, place: usize) {
        self.in_rotation.write().unwrap().push(place);
    }

    pub(super) fn start(self: &Arc<Self>, count: usize, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let call = |_| {
            let (web, stop) = (Arc::clone(self), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    web.transact().await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        (0..count).map(call).collect()
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// One transaction without a branch: begun, looked at and decided, each at a node of its own.
    async fn transact(&self) {
        // One whose answer is lost nobody commits: it is over soon, not after the minute that is the default.
        let begin = json!({ "mode": "tcc", "name": "web", "timeout_ms": 15_000 });
        let Some(begun) = self.call("", Some(&begin)).await else { return };
        let Some(xid) = begun["xid"].as_str() else { return };
        self.call(&format!("/{xid}"), None).await;
        let what = if fastrand::bool() { "commit" } else { "abort" };
        self.call(&format!("/{xid}/{what}"), Some(&json!({}))).await;
    }

    /// One call; what is not answered well is counted.
    async fn call(&self, path: &str, body: Option<&Value>) -> Option<Value> {
        let place = {
            let in_rotation = self.in_rotation.read().unwrap();
            in_rotation[fastrand::usize(..in_rotation.len())]
        };
        let url = format!("{}/v1/transactions{path}", self.urls[place]);
        let answer = self.ask(&url, body).await;
        let mut heard = self.heard.lock().unwrap();
        heard.calls += 1;
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                heard.failed.push(format!("{url}: {error:#}"));
                None
            }
        }
    }

    async fn ask(&self, url: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let answer = request.send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(answer)
    }
}
