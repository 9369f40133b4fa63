//! A further server of the log: opened when it is first needed, and tried from time to time, so that the node can say
//! which ones it reaches (protocol H10).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::log::{Error, LogIdentity, PostgresLog, PostgresOptions, TransactionLog as _};

/// A server is tried at most so often; each beat asks for it.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long a try may take. Connecting has a limit of its own.
const TRY_LIMIT: Duration = Duration::from_secs(8);
/// How long a node that starts waits for the first tries.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A server that could be opened within this time is not given up for one try that failed: it may be restarting or failing
/// over, which all nodes see alike, and nothing is won by handing its partitions around.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// A further server, as this node was told of it.
pub(super) struct Server {
    name: String,
    url: String,
    /// Whose it has to be.
    log: LogIdentity,
    limits: PostgresOptions,
    opened: OnceCell<Arc<PostgresLog>>,
    tries: Mutex<Tries>,
    /// Whether it can be reached; nothing before the first try ended.
    reached: watch::Sender<Option<bool>>,
}

#[derive(Debug, Default)]
struct Tries {
    under_way: bool,
    last: Option<Instant>,
    /// When one succeeded last.
    reached_at: Option<Instant>,
}

impl Server {
    pub(super) fn new(name: String, url: String, log: LogIdentity, limits: PostgresOptions) -> Arc<Self> {
        Arc::new(Self {
            name,
            url,
            log,
            limits,
            opened: OnceCell::new(),
            tries: Mutex::default(),
            reached: watch::Sender::new(None),
        })
    }

    /// The server, opened: one that is away holds up nobody else's partitions.
    pub(super) async fn open(&self) -> Result<Arc<PostgresLog>, Error> {
        self.opened.get_or_try_init(|| self.connect()).await.map(Arc::clone)
    }

    /// The server, if it was opened.
    pub(super) fn opened(&self) -> Option<&Arc<PostgresLog>> {
        self.opened.get()
    }

    async fn connect(&self) -> Result<Arc<PostgresLog>, Error> {
        let opened = PostgresLog::open(&self.url, self.limits).await?;
        let theirs = opened.identity();
        if theirs.log_id != self.log.log_id {
            let what = format!("{} belongs to another log ({})", opened.describe(), theirs.log_id);
            return Err(Error::Refused(what));
        }
        if opened.server() != self.name {
            let what = format!("{} is server {:?}, not {:?}", opened.describe(), opened.server(), self.name);
            return Err(Error::Refused(what));
        }
        Ok(Arc::new(opened))
    }

    /// Tries it in a task of its own, unless that is under way or was done a moment ago.
    fn try_it(self: &Arc<Self>) {
        {
            let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
            if tries.under_way || tries.last.is_some_and(|last| last.elapsed() < TRY_EVERY) {
                return;
            }
            tries.under_way = true;
            tries.last = Some(Instant::now());
        }
        let server = Arc::clone(self);
        crate::task::spawn(async move {
            let look = async { server.open().await?.now().await };
            let found = match timeout(TRY_LIMIT, look).await {
                Ok(found) => found.map(drop),
                Err(_) => Err(Error::Unavailable("no answer".to_owned())),
            };
            server.tried(found);
        });
    }

    fn tried(&self, found: Result<(), Error>) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        tries.under_way = false;
        let reached = match &found {
            Ok(()) => {
                tries.reached_at = Some(Instant::now());
                true
            }
            Err(_) => tries.reached_at.is_some_and(|at| at.elapsed() < GIVEN_UP_AFTER),
        };
        drop(tries);
        let before = self.reached.send_replace(Some(reached));
        match found {
            Err(error) if !reached && before != Some(false) => {
                tracing::warn!(server = self.name, %error, "a server of the log cannot be reached: its partitions are left to other nodes");
            }
            _ if reached && before == Some(false) => {
                tracing::info!(server = self.name, "a server of the log is reached again");
            }
            _ => {}
        }
    }
}

/// The names of those that can be reached. Who was never tried is waited for a moment.
pub(super) async fn reached(servers: impl Iterator<Item = &Arc<Server>>) -> Vec<String> {
    let until = Instant::now() + FIRST_WAIT;
    let mut names = Vec::new();
    let servers: Vec<_> = servers.collect();
    let first: Vec<bool> = servers
        .iter()
        .map(|server| {
            let is_first = server.tries.lock().unwrap_or_else(PoisonError::into_inner).last.is_none();
            server.try_it();
            is_first
        })
        .collect();
    for (server, is_first) in servers.into_iter().zip(first) {
        let mut reached = server.reached.subscribe();
        if is_first {
            // A later beat says what is not known by then.
            let _ = timeout_at(until, reached.wait_for(Option::is_some)).await;
        }
        let is_reached = *reached.borrow() == Some(true);
        if is_reached {
            names.push(server.name.clone());
        }
    }
    names
}
