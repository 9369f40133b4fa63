//! DTM and what speaks its HTTP API (dtmrs): sagas, submitted by `POST /api/dtmsvr/submit`.
//!
//! Such a server answers a submission when it is stored, and tells nobody about the end. To ask it again
//! and again would be load that it has to carry. So the last step of every saga calls the generator itself,
//! at an address that answers 200 at once like the other participants: that call is the end. It is a little
//! early, by the answer to it and what the server then writes, in the measured server's favour. Whether all
//! of them ended well is looked up in its database when the load is over (`cargo xtask bench`).

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::clock::now_us;
use crate::driver::{Driver, Shot};
use crate::error::Error;
use crate::measure::{End, Outcome};
use crate::options::Options;
use crate::places::Places;

/// How long a saga is waited for: as long as for Unanimity's.
const SAGA_WAIT_MAX: Duration = Duration::from_secs(90);
/// How long a submission may take.
const SUBMIT_MAX: Duration = Duration::from_secs(30);

/// Runs sagas by DTM's API.
pub(crate) struct Dtm {
    http: reqwest::Client,
    submit: String,
    places: Places,
    steps: u32,
    payload: String,
    /// What the gids of this generator begin with.
    run: String,
    /// Where the last steps go: the number follows.
    end_url: String,
    ends: Arc<Ends>,
    server: AbortHandle,
}

/// Who waits for which saga's last step.
#[derive(Debug, Default)]
struct Ends(Mutex<HashMap<u64, oneshot::Sender<u64>>>);

impl Ends {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<u64>>> {
        // Single inserts and removals: sound even if a panic poisoned the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dtm {
    /// Listens for last steps. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// There is no port, or no HTTP client.
    pub(crate) async fn new(options: &Options, places: Places) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Participants(error.to_string());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let end_url = format!("http://{}/end/", listener.local_addr().map_err(failed)?);
        let ends = Arc::new(Ends::default());
        let app = Router::new().route("/end/{number}", post(ended)).with_state(Arc::clone(&ends));
        let listener = listener.tap_io(|connection| {
            // Without it small answers wait for the other side's acknowledgement.
            let _ = connection.set_nodelay(true);
        });
        // It ends with the driver; should it end before, the sagas are not seen to end, which is told.
        let server = tokio::spawn(async move { axum::serve(listener, app).await.ok() }).abort_handle();
        // reqwest wants a TLS provider even where nothing is encrypted; one may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(SUBMIT_MAX)
            .pool_max_idle_per_host(usize::try_from(options.concurrency).unwrap_or(usize::MAX))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::Participants(error.to_string()))?;
        Ok(Self {
            http,
            submit: format!("{}/api/dtmsvr/submit", options.coordinator.trim_end_matches('/')),
            places,
            steps: options.branches,
            // A JSON text of the wanted size, quotes included.
            payload: format!("\"{}\"", "x".repeat(options.payload_bytes().saturating_sub(2))),
            run: format!("{:x}-{:x}", std::process::id(), now_us()),
            end_url,
            ends,
            server,
        })
    }

    async fn saga(&self, shot: Shot) -> Result<u64, String> {
        let (told, ending) = oneshot::channel();
        self.ends.lock().insert(shot.number, told);
        let ended = self.submit_and_wait(shot, ending).await;
        self.ends.lock().remove(&shot.number);
        ended
    }

    async fn submit_and_wait(&self, shot: Shot, ending: oneshot::Receiver<u64>) -> Result<u64, String> {
        let actions: Vec<String> = (0..self.steps).map(|step| self.action(shot.number, step)).collect();
        // Each step's payload: DTM takes a list beside the steps, dtmrs a field in each of them.
        let steps: Vec<_> = actions
            .iter()
            .map(|action| json!({ "action": action, "compensate": action, "payload": self.payload }))
            .collect();
        let payloads = vec![&self.payload; actions.len()];
        let body = json!({
            "gid": format!("{}-{}", self.run, shot.number),
            "trans_type": "saga",
            "steps": steps,
            "payloads": payloads,
            "protocol": "http",
        });
        let answer = self.http.post(&self.submit).json(&body).send().await;
        let answer = answer.map_err(|error| format!("submit: {error}"))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| format!("submit: {error}"))?;
        if !status.is_success() || text.contains("FAILURE") {
            return Err(format!("submit: {status}: {text:.200}"));
        }
        match tokio::time::timeout(SAGA_WAIT_MAX, ending).await {
            Ok(Ok(ended_us)) => Ok(ended_us),
            Ok(Err(_)) => Err("a gid was used twice".to_owned()),
            Err(_) => Err(format!("the last step did not come within {SAGA_WAIT_MAX:?}")),
        }
    }

    fn action(&self, number: u64, step: u32) -> String {
        if step + 1 == self.steps {
            return format!("{}{number}", self.end_url);
        }
        // Options::check asks for participants with a URL.
        self.places.url(step).unwrap_or_default().to_owned()
    }
}

async fn ended(State(ends): State<Arc<Ends>>, Path(number): Path<u64>) -> StatusCode {
    let waiting = ends.lock().remove(&number);
    if let Some(waiting) = waiting {
        // Who waited may have given up.
        let _ = waiting.send(now_us());
    }
    // A repetition is answered like the first: at least once is what these servers promise.
    StatusCode::OK
}

impl Drop for Dtm {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Driver for Dtm {
    async fn run(&self, shot: Shot) -> Outcome {
        match self.saga(shot).await {
            // A saga is decided when its last step is done.
            Ok(ended_us) => {
                Outcome { end: End::Committed, decided_us: ended_us, finished_us: Some(ended_us) }
            }
            Err(error) => Outcome { end: End::Failed(error), decided_us: now_us(), finished_us: None },
        }
    }
}
