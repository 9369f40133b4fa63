//! The transaction manager's side: begin and decide global transactions.

mod addresses;
mod birth;
mod branch;
mod calls;
mod error;
mod info;
mod nodes;
mod route;
mod run;
mod streak;
mod stream;
mod tickets;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use unanimity_proto::{Connector, ticket_to_wire, v1};
use unanimity_types::{LogId, Mode, Status, Ticket, Xid};

use crate::client::nodes::Nodes;
use crate::client::tickets::Tickets;
use crate::error::ClientError;
use crate::witness::Witnesses;

pub use addresses::Addresses;
pub(crate) use birth::Claim;
pub use branch::NewBranch;
pub(crate) use calls::{Begun, Decided, parse_log_id};
pub use error::{AbortCause, CommitError, TransactionError};
pub use info::{BranchInfo, TransactionInfo};
pub(crate) use nodes::Ear;
pub(crate) use route::{Again, Failed};
pub use run::TransactionBuilder;
pub(crate) use run::check_begin;
pub use transaction::GlobalTransaction;

/// A coordinator's client: cheap to clone, one connection to each node, connects when it is first used and
/// again whenever a connection is lost. What its clones ask for their transactions goes together, many
/// commands in one message.
///
/// Of a cluster it needs to know one node, or a few in case that one is away: they tell of the others. A call goes to
/// the node that owns its transaction; what has no answer there is asked again at another, with the same words, which is
/// safe because every command is idempotent.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use unanimity_sdk::Client;
///
/// let client = Client::connect("http://127.0.0.1:7460")?;
/// let answer = client
///     .transaction("place-order")
///     .timeout(Duration::from_secs(10))
///     .run(async |tx| {
///         // call services here
///         Ok::<_, std::io::Error>(tx.xid())
///     })
///     .await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Nodes,
    options: Options,
    witnesses: Witnesses,
    tickets: Arc<Tickets>,
}

#[derive(Debug, Clone)]
struct Options {
    connect_timeout: Duration,
    call_timeout: Duration,
    begin_retry_for: Duration,
    commit_retry_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // Longer than a lost SYN and its repetition.
            connect_timeout: Duration::from_secs(3),
            // A call waits for one durable block: milliseconds, or a few seconds on a sick disk.
            call_timeout: Duration::from_secs(10),
            begin_retry_for: Duration::from_secs(10),
            // Longer than a coordinator's restart.
            commit_retry_for: Duration::from_secs(30),
        }
    }
}

/// Sets how a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    addresses: Addresses,
    options: Options,
    connector: Option<Connector>,
}

impl ClientBuilder {
    /// Connects by this, instead of TCP: to the addresses that are given and to those that the nodes advertise.
    ///
    /// ```no_run
    /// # #[cfg(unix)]
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use unanimity_sdk::{Client, Connector};
    ///
    /// // A coordinator on the same machine, behind a Unix socket.
    /// let socket = |_| tokio::net::UnixStream::connect("/run/unanimity.sock");
    /// let client = Client::builder("http://here").connector(Connector::new(socket)).connect()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = Some(connector);
        self
    }

    /// How long an attempt to connect may take; 3 s if not set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long one attempt of a call may take; 10 s if not set. Half as long where another node can be asked after it.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = timeout;
        self
    }

    /// For how long a begin is repeated; 10 s if not set. It names its xid, so repeating is safe.
    #[must_use]
    pub fn begin_retry_for(mut self, bound: Duration) -> Self {
        self.options.begin_retry_for = bound;
        self
    }

    /// For how long a commit is repeated before its outcome is called unknown; 30 s if not set.
    #[must_use]
    pub fn commit_retry_for(mut self, bound: Duration) -> Self {
        self.options.commit_retry_for = bound;
        self
    }

    /// Makes the client. Connects later, when it is used; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::InvalidUrl`].
    pub fn connect(self) -> Result<Client, ClientError> {
        let seeds = self.addresses.check()?;
        let tickets = Arc::<Tickets>::default();
        let how = (self.options.connect_timeout, self.connector);
        let nodes = Nodes::new(&seeds, how, Arc::clone(&tickets))?;
        let shared = Shared { nodes, options: self.options, witnesses: Witnesses::default(), tickets };
        Ok(Client { shared: Arc::new(shared) })
    }
}

impl Client {
    /// A client with the defaults, for a coordinator at one address or a cluster at several ([`Addresses`]):
    /// `http://a:7460`, `http://a:7460,http://b:7460`. Connects later, when it is used; must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::InvalidUrl`].
    pub fn connect(addresses: impl Into<Addresses>) -> Result<Self, ClientError> {
        Self::builder(addresses).connect()
    }

    /// A client with settings of its own.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use unanimity_sdk::Client;
    ///
    /// let client = Client::builder(["http://10.0.0.5:7460", "http://10.0.0.6:7460"])
    ///     .commit_retry_for(Duration::from_secs(60))
    ///     .connect()?;
    /// # Ok(()) }
    /// ```
    pub fn builder(addresses: impl Into<Addresses>) -> ClientBuilder {
        ClientBuilder { addresses: addresses.into(), options: Options::default(), connector: None }
    }

    /// A transaction that runs a closure: see [`TransactionBuilder::run`]. The name is for people:
    /// up to 128 bytes.
    pub fn transaction(&self, name: impl Into<String>) -> TransactionBuilder {
        TransactionBuilder::new(self.clone(), Mode::Tcc, name.into())
    }

    /// The same for a transaction of two-phase branches and messages alone
    /// ([`crate::Participant::two_phase_branch`]): one of [`Client::transaction`] carries TCC branches as
    /// well.
    pub fn two_phase(&self, name: impl Into<String>) -> TransactionBuilder {
        TransactionBuilder::new(self.clone(), Mode::TwoPhase, name.into())
    }

    /// Begins a transaction by hand, with the default timeout of 60 s. Dropping every clone of the
    /// handle undecided aborts it.
    ///
    /// # Errors
    /// [`ClientError`]; then nothing was begun, or it ends by its deadline without an effect.
    pub async fn begin(&self, name: impl Into<String>) -> Result<GlobalTransaction, ClientError> {
        self.transaction(name).begin().await
    }

    /// What the coordinator says of a transaction now.
    ///
    /// # Errors
    /// [`ClientError`]. `transaction_not_found` is no outcome: a commit may still be under way to
    /// the coordinator; [`Client::abort`] settles it.
    pub async fn status(&self, xid: Xid) -> Result<TransactionInfo, ClientError> {
        self.get(xid, v1::Wait::Unspecified, Duration::ZERO).await
    }

    /// Waits until every branch of a transaction is settled, or `limit` has passed: look at the
    /// status that comes back.
    ///
    /// # Errors
    /// [`ClientError`], if the coordinator cannot be asked within the limit.
    pub async fn wait_finished(&self, xid: Xid, limit: Duration) -> Result<TransactionInfo, ClientError> {
        self.wait(xid, v1::Wait::Finished, limit, Status::is_terminal).await
    }

    /// Waits until a transaction is decided, or `limit` has passed: look at the status that comes
    /// back. This settles [`TransactionError::OutcomeUnknown`].
    ///
    /// # Errors
    /// [`ClientError`], if the coordinator cannot be asked within the limit.
    pub async fn wait_decided(&self, xid: Xid, limit: Duration) -> Result<TransactionInfo, ClientError> {
        self.wait(xid, v1::Wait::Decided, limit, |status| status.decision().is_some()).await
    }

    /// Aborts a transaction, or learns that it was committed. Settles what is not known.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `already_decided` and the true status if it was
    /// committed.
    pub async fn abort(&self, xid: Xid) -> Result<(), ClientError> {
        let wait = v1::Wait::Decided;
        self.abort_for(xid, self.options().call_timeout, &Claim::default(), wait).await
    }

    /// The log of the coordinator, once it answered.
    #[must_use]
    pub fn log_id(&self) -> Option<LogId> {
        self.witnesses().log_id()
    }

    async fn wait(
        &self,
        xid: Xid,
        wait: v1::Wait,
        limit: Duration,
        enough: impl Fn(Status) -> bool,
    ) -> Result<TransactionInfo, ClientError> {
        // Long polls of at most 20 s: proxies commonly cut a silent request after 30 to 60 s.
        const POLL_MAX: Duration = Duration::from_secs(20);
        let end = tokio::time::Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let info = self.get(xid, wait, left.min(POLL_MAX)).await?;
            if enough(info.status) || tokio::time::Instant::now() >= end {
                return Ok(info);
            }
            // In case the coordinator answers at once: never a busy loop.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The coordinator's nodes, as they are known.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }

    fn tickets(&self) -> &Tickets {
        &self.shared.tickets
    }

    pub(crate) fn witnesses(&self) -> &Witnesses {
        &self.shared.witnesses
    }

    /// The xid of a begin by call and the ticket to show with it: the caller's own, which may have been used
    /// before, or a new one.
    pub(crate) fn xid_for_begin(&self, own: Option<Xid>) -> (Xid, Option<v1::Ticket>) {
        if let Some(xid) = own {
            return (xid, None);
        }
        let (xid, ticket) = self.mint();
        (xid, ticket.map(|(_, ticket)| ticket_to_wire(ticket)))
    }

    /// A new xid, and what to stamp it with, if it is known.
    fn mint(&self) -> (Xid, Option<(LogId, Ticket)>) {
        self.shared.tickets.mint()
    }

    fn options(&self) -> &Options {
        &self.shared.options
    }
}
