//! Describing and starting a node.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use unanimity_core::RetryPolicy;
use unanimity_proto::Connector;

use super::warnings::watch_log;
use super::{Node, Server};
use crate::api::{self, Parts};
use crate::cluster::{Cluster, ClusterConfig, MemberHome, Router};
use crate::config::{Config, DatabaseUrl};
use crate::delivery::{AllowList, AllowListError, Delivery, DeliveryConfig, ParticipantsService};
use crate::engine::{Dispatcher, Engine, EngineConfig, Peers};
use crate::log::{self, MemoryLog, PlacedLog, PostgresOptions, SqliteLog, TransactionLog};
use crate::server::{self, Accept, Incoming, Stop};
use crate::telemetry::Metrics;

/// Between two attempts to open a log whose database is away.
const START_RETRY: Duration = Duration::from_secs(1);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log cannot be opened.
    #[error("cannot open the log at {place}")]
    Log {
        /// Where it was looked for, without secrets.
        place: String,
        /// What is wrong with it.
        #[source]
        source: log::Error,
    },
    /// The address is taken, not ours, or needs rights that the process does not have.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An allowed callback that means nothing.
    #[error("callbacks.allow")]
    Callbacks(#[source] AllowListError),
    /// The configuration has a value out of its range.
    #[error("configuration: {0}")]
    Config(String),
}

#[derive(Debug)]
enum Source {
    Memory {
        partitions: u16,
    },
    Sqlite(PathBuf),
    /// As the type that hides the password from `Debug`.
    Postgres(DatabaseUrl),
    Existing(Arc<dyn TransactionLog>),
}

/// A node to start. Without a log it gets one in memory, with one partition.
#[derive(Debug)]
pub struct NodeBuilder {
    source: Source,
    listen: Option<SocketAddr>,
    incoming: Option<Incoming>,
    connector: Option<Connector>,
    allow: Option<AllowList>,
    config: Config,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            source: Source::Memory { partitions: 1 },
            listen: None,
            incoming: None,
            connector: None,
            allow: None,
            config: Config::default(),
        }
    }
}

impl NodeBuilder {
    /// A log in memory, with one partition: for tests. It forgets everything with the process.
    #[must_use]
    pub fn memory(self) -> Self {
        self.memory_with_partitions(1)
    }

    /// A log in memory with so many partitions.
    #[must_use]
    pub fn memory_with_partitions(mut self, partitions: u16) -> Self {
        self.source = Source::Memory { partitions };
        self
    }

    /// A log in a SQLite file, made and migrated if need be.
    #[must_use]
    pub fn sqlite(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Source::Sqlite(path.into());
        self
    }

    /// A log in Postgres, migrated before by `unanimity migrate` or `log::migrate_postgres`.
    #[must_use]
    pub fn postgres(mut self, url: impl Into<String>) -> Self {
        self.source = Source::Postgres(DatabaseUrl::Postgres(url.into()));
        self
    }

    /// A log that is open already: tests start again over the same one, or over one that makes faults.
    #[must_use]
    pub fn log(mut self, log: Arc<dyn TransactionLog>) -> Self {
        self.source = Source::Existing(log);
        self
    }

    /// Where to listen; port 0 for any free one. Without it the node serves its own process only.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Serves these connections instead of listening by itself: of a socket that another process opened, a Unix socket,
    /// a simulated network. Where it can be called is said by the configuration's `advertise`. When the stream ends no
    /// more come.
    #[must_use]
    pub fn incoming<S, IO>(mut self, connections: S) -> Self
    where
        S: Stream<Item = std::io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.incoming = Some(Incoming::new(connections));
        self
    }

    /// Connects to the cluster's other nodes by this, instead of TCP: for what travels between nodes by gRPC, which is
    /// all but HTTP calls that are passed on. Participants' callbacks are not concerned.
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Which callbacks are allowed, instead of the configuration's list.
    #[must_use]
    pub fn allow_callbacks(mut self, allow: AllowList) -> Self {
        self.allow = Some(allow);
        self
    }

    /// Limits, timeouts, names. Its `listen` and `database_url` are not read: `listen` and the log are
    /// said above. Its `database.servers` go with a log in Postgres.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// When operations are tried again.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.config.retry.initial_ms = ms(policy.initial);
        self.config.retry.cap_ms = ms(policy.cap);
        self.config.retry.attention_after = policy.attention_after;
        self
    }

    /// Starts it. Answers when it listens; its partitions may still be reading their log, see
    /// [`Node::ready`]. A database that is away is waited for, `timeouts.start_ms` of the configuration.
    ///
    /// # Errors
    /// [`Error`] says what to mend.
    pub async fn start(self) -> Result<Node, Error> {
        let Self { source, listen, incoming, connector, allow, config } = self;
        config.validate().map_err(Error::Config)?;
        if listen.is_some() && incoming.is_some() {
            let what = "a node listens itself or is handed connections (incoming), not both";
            return Err(Error::Config(what.to_owned()));
        }
        let allow = match allow {
            Some(allow) => allow,
            None => AllowList::parse(&config.callbacks.allow).map_err(Error::Callbacks)?,
        };
        // The port first: a second node on the same machine shall fail before it touches the log.
        let listener = match listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let patience = Patience::new(config.timeouts.start());
        let log = patience.keep(|| open(&source, config.servers()).boxed()).await?;
        let config = Arc::new(config);
        let delivery = Delivery::new(DeliveryConfig {
            allow: allow.clone(),
            log_id: Some(log.identity().log_id),
            request_timeout: config.timeouts.callback(),
            ..DeliveryConfig::default()
        });
        let listening = listener.as_ref().map(|(_, address)| *address);
        let mut engine_config = EngineConfig {
            node: config.node_name(),
            address: advertised(&config, listening),
            retry: RetryPolicy {
                initial: Duration::from_millis(config.retry.initial_ms),
                cap: Duration::from_millis(config.retry.cap_ms),
                attention_after: config.retry.attention_after,
            },
            // What delivery gives a call: a new owner waits for the old one's (protocol H3).
            call_timeout: config.timeouts.callback(),
            history_retention: config.history.retention(),
            ..EngineConfig::default()
        };
        let dispatcher: Arc<dyn Dispatcher> = Arc::clone(&delivery) as Arc<dyn Dispatcher>;
        let EngineConfig { node, address, lease, .. } = &engine_config;
        let member = ClusterConfig::new(node.clone(), address.clone(), *lease);
        let join = || {
            let (member, log) = (member.clone(), Arc::clone(&log));
            async move {
                let joined = Cluster::join(member, Arc::clone(&log)).await;
                joined.map_err(|source| Error::Log { place: log.describe(), source })
            }
            .boxed()
        };
        let cluster = patience.keep(join).await?;
        engine_config.format = cluster.format();
        let engine =
            Engine::start_assigned(engine_config, Arc::clone(&log), &dispatcher, cluster.assignments());
        let router =
            Router::new(engine.coordinator(), cluster.watch(), cluster.tidings()).connecting(connector);
        let router = Arc::new(router);
        let telling = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&router).spread_tidings()));
        engine.coordinator().join(Arc::clone(&router) as Arc<dyn Peers>);
        let closing = CancellationToken::new();
        let (told, warnings) = watch::channel(Vec::new());
        let looking = AbortOnDropHandle::new(tokio::spawn(watch_log(Arc::clone(&log), told)));
        let doors = match (listener, incoming) {
            (_, Some(incoming)) => Some(Doors::Incoming(incoming)),
            (Some((listener, _)), None) => Some(Doors::Listener(listener)),
            (None, None) => None,
        };
        let server = doors.map(|doors| {
            let coordinator = engine.coordinator();
            let home = MemberHome { coordinator: coordinator.clone(), router: Arc::clone(&router) };
            let api = api::assemble(Parts {
                participants: ParticipantsService::new(home, Arc::clone(&delivery)),
                router: Some(router),
                coordinator,
                allow,
                config: Arc::clone(&config),
                metrics: Arc::new(Metrics::default()),
                warnings,
                closing: closing.clone(),
            });
            let (config, delivery) = (Arc::clone(&config), Arc::clone(&delivery));
            let task = match doors {
                Doors::Listener(listener) => {
                    tokio::spawn(serve(listener, api, config, delivery, closing.clone()))
                }
                Doors::Incoming(incoming) => {
                    tokio::spawn(serve(incoming, api, config, delivery, closing.clone()))
                }
            };
            Server { address: listening, task }
        });
        Ok(Node { engine, cluster, delivery, log, config, server, closing, _tasks: [looking, telling] })
    }
}

/// Where connections come in.
enum Doors {
    Listener(TcpListener),
    Incoming(Incoming),
}

async fn serve(
    doors: impl Accept,
    api: api::Api,
    config: Arc<Config>,
    delivery: Arc<Delivery>,
    closing: CancellationToken,
) {
    let limit = config.timeouts.shutdown();
    let idle = async move {
        // Together: calls may wait for participants, whose answers come over our connections.
        tokio::join!(api.calls.idle(), delivery.shutdown(limit));
    };
    let stop = Stop { signal: closing.cancelled_owned(), idle, limit };
    server::serve(doors, api.routes, &config.limits, stop).await;
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn open(source: &Source, servers: BTreeMap<String, String>) -> Result<Arc<dyn TransactionLog>, Error> {
    Ok(match source {
        Source::Existing(log) => Arc::clone(log),
        Source::Memory { partitions } => Arc::new(MemoryLog::new(*partitions)),
        Source::Sqlite(path) => {
            let opened = SqliteLog::open_or_create(path).await;
            let place = path.display().to_string();
            Arc::new(opened.map_err(|source| Error::Log { place, source })?)
        }
        Source::Postgres(url) => {
            let opened = PlacedLog::open(&url.expose(), servers, PostgresOptions::default()).await;
            Arc::new(opened.map_err(|source| Error::Log { place: url.to_string(), source })?)
        }
    })
}

/// How long a start keeps trying: a database that fails over, or that starts with the same machine, is away for a
/// moment, and a node that gave up at once would have to be started again by somebody.
struct Patience {
    until: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit }
    }

    /// Tries until it works, fails for a reason that does not pass, or time is up.
    async fn keep<'a, T>(&self, attempt: impl Fn() -> BoxFuture<'a, Result<T, Error>>) -> Result<T, Error> {
        loop {
            let error = match attempt().await {
                Err(Error::Log { place, source }) if source.is_transient() => Error::Log { place, source },
                other => return other,
            };
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, why, give_up_in_s = left.as_secs(), "the start waits for the log's database");
            sleep(left.min(START_RETRY)).await;
        }
    }
}

/// The address for people and other nodes.
fn advertised(config: &Config, listening: Option<SocketAddr>) -> String {
    config
        .advertise
        .clone()
        .or_else(|| listening.map(|address| format!("http://{address}")))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_shows_no_password() {
        let builder = Node::builder().postgres("postgres://unanimity:s3cret@db/unanimity");
        let shown = format!("{builder:?}");
        assert!(shown.contains("db/unanimity") && !shown.contains("s3cret"), "{shown}");
    }

    #[tokio::test]
    async fn a_wrong_password_is_not_in_the_error() {
        let mut config = Config::default();
        config.timeouts.start_ms = 0;
        let builder = Node::builder().config(config);
        let builder = builder.postgres("postgres://unanimity:s3cret@127.0.0.1:1/unanimity");
        let error = builder.start().await.expect_err("nobody listens there");
        let shown = format!("{error:?} {error}");
        assert!(shown.contains("127.0.0.1:1") && !shown.contains("s3cret"), "{shown}");
    }

    #[tokio::test]
    async fn an_embedded_node_needs_no_port() {
        let node = Node::builder().memory().start().await.expect("started");
        node.ready(Duration::from_secs(10)).await.expect("ready");
        assert_eq!((node.local_addr(), node.url()), (None, None));
        let begin = crate::engine::Begin {
            mode: unanimity_types::Mode::Tcc,
            name: None,
            xid: None,
            timeout: None,
            plan: unanimity_types::Plan::Open,
            ticket: None,
        };
        let begun = node.coordinator().begin(begin).await.expect("begun");
        assert_eq!(begun.status, unanimity_types::Status::Active);
        node.shutdown().await;
    }
}
