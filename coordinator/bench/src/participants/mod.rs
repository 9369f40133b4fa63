//! The participants' process.

mod attached;
mod database;
mod grpc;
mod http;
mod tally;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;

use crate::error::Error;
use crate::options::{Database, Options, Reach, Workload};
use crate::places::{PlaceKind, Places, service_name};
use crate::stamp::Stamp;

pub(crate) use tally::{Tallied, Tally};

/// How long the sessions may take to open.
const ATTACH_MAX: Duration = Duration::from_secs(10);
/// Different errors that are remembered.
const ERRORS_MAX: usize = 8;

/// Answers operations: done, all of them, but for the steps that are to refuse.
pub(crate) struct Answerer {
    /// How long that takes.
    takes: Duration,
    /// `None`: the driver itself waits for the end.
    tally: Option<Arc<Tally>>,
    has_aborts: bool,
    errors: Mutex<Vec<String>>,
}

impl Answerer {
    /// Whether anything depends on what a request says.
    fn looks(&self) -> bool {
        self.tally.is_some() || self.has_aborts
    }

    fn answer(&self, operations: &[v1::BranchOperation]) -> Vec<v1::BranchResult> {
        if let Some(tally) = &self.tally {
            tally.note(operations.iter().filter_map(|operation| {
                let stamp = Stamp::read(&operation.payload, &operation.transaction_name);
                Some((operation.xid.parse().ok()?, operation.branch_id, operation.attempt > 1, stamp))
            }));
        }
        operations.iter().map(|operation| self.result(operation)).collect()
    }

    fn result(&self, operation: &v1::BranchOperation) -> v1::BranchResult {
        let is_forward = operation.operation() == v1::Operation::Action;
        let refuses = self.has_aborts
            && is_forward
            && Stamp::read(&operation.payload, &operation.transaction_name).is_some_and(|stamp| stamp.refuse);
        let outcome = if refuses { Outcome::Refused } else { Outcome::Done };
        v1::BranchResult { call_id: operation.call_id, outcome: outcome.into(), ..Default::default() }
    }

    fn remember(&self, error: String) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_MAX && !errors.contains(&error) {
            errors.push(error);
        }
    }

    fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Participants that run. Dropped, they stop.
pub(crate) struct Participants {
    pub(crate) places: Places,
    answerer: Arc<Answerer>,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Participants {
    /// Starts them; attached ones have their session then.
    pub(crate) async fn start(options: &Options) -> Result<Self, Error> {
        // A saga's driver waits for its end by itself.
        let is_tallied = options.mode != Workload::Saga;
        let answerer = Arc::new(Answerer {
            takes: Duration::ZERO,
            tally: is_tallied.then(|| Arc::new(Tally::new(options.branches))),
            has_aborts: options.aborts > 0,
            errors: Mutex::default(),
        });
        let services = options.services();
        let mut tasks = JoinSet::new();
        if options.database != Database::None {
            let database::Addresses { grpc, tries } = database::start(&mut tasks, options, &answerer).await?;
            let kind = if grpc.is_empty() { PlaceKind::Attached } else { PlaceKind::Grpc(grpc) };
            return Ok(Self { places: Places { services, kind, tries }, answerer, _tasks: tasks });
        }
        let kind = match options.participants {
            Reach::Attached => {
                attach(&mut tasks, options, services, &answerer).await?;
                PlaceKind::Attached
            }
            Reach::Grpc | Reach::Http => {
                let mut urls = Vec::new();
                // A port for each: the coordinator keeps callbacks apart by address.
                for _ in 0..services {
                    let (listener, url) = listen().await?;
                    if options.participants == Reach::Grpc {
                        tasks.spawn(grpc::serve(listener, Arc::clone(&answerer)));
                    } else {
                        tasks.spawn(http::serve(listener, Arc::clone(&answerer)));
                    }
                    urls.push(url);
                }
                if options.participants == Reach::Grpc {
                    PlaceKind::Grpc(urls)
                } else {
                    PlaceKind::Http(urls)
                }
            }
        };
        Ok(Self { places: Places { services, kind, tries: Vec::new() }, answerer, _tasks: tasks })
    }

    pub(crate) fn tally(&self) -> Option<&Tally> {
        self.answerer.tally.as_deref()
    }

    /// What went wrong.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.answerer.errors()
    }
}

async fn listen() -> Result<(TcpListener, String), Error> {
    let failed = |error: std::io::Error| Error::Participants(error.to_string());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, format!("http://{address}")))
}

async fn attach(
    tasks: &mut JoinSet<()>,
    options: &Options,
    services: u32,
    answerer: &Arc<Answerer>,
) -> Result<(), Error> {
    let mut sessions = Vec::new();
    for service in 0..services {
        let (open, is_open) = watch::channel(false);
        let name = service_name(service);
        tasks.spawn(attached::run(options.coordinator.clone(), name, Arc::clone(answerer), open));
        sessions.push(is_open);
    }
    are_open(sessions, answerer).await
}

/// Attaches one that takes its time, and says no more of it.
pub(crate) async fn slow(
    tasks: &mut JoinSet<()>,
    coordinator: &str,
    name: &str,
    takes: Duration,
) -> Result<(), Error> {
    let answerer = Arc::new(Answerer { takes, tally: None, has_aborts: false, errors: Mutex::default() });
    let (open, is_open) = watch::channel(false);
    tasks.spawn(attached::run(coordinator.to_owned(), name.to_owned(), Arc::clone(&answerer), open));
    are_open(vec![is_open], &answerer).await
}

async fn are_open(mut sessions: Vec<watch::Receiver<bool>>, answerer: &Answerer) -> Result<(), Error> {
    let all = async {
        for session in &mut sessions {
            // The sender lives as long as the task does.
            let _ = session.wait_for(|open| *open).await;
        }
    };
    if tokio::time::timeout(ATTACH_MAX, all).await.is_err() {
        let errors = answerer.errors().join("; ");
        return Err(Error::Participants(format!("they could not attach within {ATTACH_MAX:?}: {errors}")));
    }
    Ok(())
}
