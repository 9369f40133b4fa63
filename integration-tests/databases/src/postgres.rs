//! A PostgreSQL server for a test, found wherever there is one.
//!
//! In this order: the server that `UNANIMITY_TEST_DATABASE_URL` names; a container, where a Docker engine answers
//! (image `UNANIMITY_TEST_POSTGRES_IMAGE`, else `postgres:17-alpine`); the PostgreSQL binaries of this machine, with a
//! throw-away cluster. With `UNANIMITY_TEST_REQUIRE_CONTAINERS=1` a silent engine is an error rather than a reason to
//! look further, so that a run that must cover containers cannot skip them unnoticed.
//!
//! Containers and clusters belong to one [`TestPostgres`] and go with it. They are not removed from a `static`, whose
//! destructor never runs, nor when the test process is killed: what is left of such a run carries the id in
//! `UNANIMITY_TEST_RUN`, and `cargo xtask test` sweeps it up.

mod binaries;
mod choice;

use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use self::binaries::Binaries;
use crate::cleanup::clean_up;
use crate::container::{self, Container};
use crate::say;

pub use self::choice::is_available;
pub use crate::kind::Kind;

/// Names a server that is used as it is.
pub const URL_VARIABLE: &str = "UNANIMITY_TEST_DATABASE_URL";
/// Makes the absence of a Docker engine an error when it is `1`.
pub const REQUIRE_CONTAINERS_VARIABLE: &str = "UNANIMITY_TEST_REQUIRE_CONTAINERS";
/// The image that containers run.
pub const IMAGE_VARIABLE: &str = "UNANIMITY_TEST_POSTGRES_IMAGE";

/// How long a server may take until it answers: a cold container on a busy machine with two cores took 12 s.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
const DEFAULT_IMAGE: &str = "postgres:17-alpine";
/// Transactions that may be prepared at a time. PostgreSQL's own default is none at all; 100 is more than a test's
/// clients hold open.
const PREPARED_TRANSACTIONS_MIN: u32 = 100;
/// A port can be taken between our look at it and the server's start; three times in a row it is something else.
const START_ATTEMPTS: u32 = 3;

/// What a test asks of its server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    kind: Option<Kind>,
    settings: Vec<(String, String)>,
}

impl Options {
    /// Takes this kind of server or none; without it, the first kind that there is.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Sets a parameter of the server (`postgres -c name=value`). An external server stays as it is.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The server's arguments. Ours come first: of a parameter given twice, PostgreSQL takes the last.
    ///
    /// `fsync` is off because tests kill processes, never the machine: what a killed server has written is in the
    /// kernel's cache and safe. `synchronous_commit` stays on, so that a commit is written before it is answered.
    fn arguments(&self) -> Vec<String> {
        let prepared = PREPARED_TRANSACTIONS_MIN.to_string();
        [("fsync", "off"), ("max_connections", "200"), ("max_prepared_transactions", prepared.as_str())]
            .into_iter()
            .chain(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect()
    }
}

/// A running PostgreSQL server. Dropping it removes what [`TestPostgres::start`] and
/// [`TestPostgres::create_database`] made, and nothing else.
#[derive(Debug)]
pub struct TestPostgres {
    kind: Kind,
    server: Server,
    /// How to reach the server as its superuser, with the maintenance database.
    admin: PgConnectOptions,
    /// Made by us on an external server, to be dropped with `self`.
    databases: Mutex<Vec<String>>,
    /// What our databases' names begin with: empty on a server of our own, unique on an external one.
    prefix: String,
}

#[derive(Debug)]
enum Server {
    External,
    Container(Box<Container>),
    Binaries(Binaries),
}

impl TestPostgres {
    /// Finds or starts a server and waits until it answers.
    ///
    /// # Errors
    /// No kind of server is to be had (the message says what would help), or it did not come up.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let kind = choice::choose(&choice::Machine::look(options.kind).await)?;
        let mut attempt = 1;
        let postgres = loop {
            match Self::start_kind(kind, &options).await {
                Ok(postgres) => break postgres,
                Err(error) if attempt == START_ATTEMPTS || kind == Kind::External => {
                    return Err(
                        error.context(format!("no PostgreSQL of kind {kind} after {attempt} attempts"))
                    );
                }
                Err(_) => attempt += 1,
            }
        };
        announce(&postgres);
        if kind == Kind::External {
            postgres.warn_of_prepared_transactions().await?;
        }
        Ok(postgres)
    }

    async fn start_kind(kind: Kind, options: &Options) -> anyhow::Result<Self> {
        let (server, admin, prefix) = match kind {
            Kind::External => {
                let url =
                    std::env::var(URL_VARIABLE).with_context(|| format!("{URL_VARIABLE} is not set"))?;
                let admin =
                    PgConnectOptions::from_str(&url).with_context(|| format!("{URL_VARIABLE} is no URL"))?;
                (Server::External, admin, format!("unanimity_test_{:08x}_", fastrand::u32(..)))
            }
            Kind::Container => {
                let container = Container::start(container::Server {
                    image: std::env::var(IMAGE_VARIABLE).unwrap_or_else(|_| DEFAULT_IMAGE.to_owned()),
                    port: 5432,
                    password_variable: "POSTGRES_PASSWORD",
                    arguments: options.arguments(),
                })
                .await?;
                let (host, port) = container.address();
                let admin = superuser(host, port, container.password());
                (Server::Container(Box::new(container)), admin, String::new())
            }
            Kind::Binaries => {
                let binaries = Binaries::start(options.arguments()).await?;
                let admin = binaries.connect_options();
                (Server::Binaries(binaries), admin, String::new())
            }
        };
        // From here on `postgres` cleans up if the server does not become ready.
        let postgres = Self { kind, server, admin, databases: Mutex::default(), prefix };
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    /// Which kind of server this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The URL of `database`, as [`TestPostgres::create_database`] named it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.admin.clone().database(&self.full_name(database)).to_url_lossy().to_string()
    }

    /// The URL of the server's maintenance database.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.admin.to_url_lossy().to_string()
    }

    /// Creates an empty database and returns its URL. On an external server the real name is a unique one.
    ///
    /// # Errors
    /// The name is not made of lower-case letters, digits and `_`, the database exists, or the server is away.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        // Database names cannot be bound as parameters, so what goes into the statement is checked here.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            bail!("{name:?} is no name for a test's database: use lower-case letters, digits and _");
        }
        let full_name = self.full_name(name);
        let mut connection = self.admin.connect().await.context("connecting to create a database")?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE \"{full_name}\"")))
            .execute(&mut connection)
            .await
            .with_context(|| format!("creating the database {full_name}"))?;
        connection.close().await?;
        self.databases.lock().expect("no holder panics").push(full_name);
        Ok(self.url(name))
    }

    /// Freezes the server: connections stay open and nothing answers, as when a machine hangs.
    ///
    /// # Errors
    /// The server is external.
    pub async fn pause(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::External => bail!("an external server is not ours to pause"),
            Server::Container(container) => container.pause().await,
            Server::Binaries(binaries) => binaries.pause(),
        }
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    /// The server is external.
    pub async fn unpause(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::External => bail!("an external server is not ours to unpause"),
            Server::Container(container) => container.unpause().await,
            Server::Binaries(binaries) => binaries.unpause(),
        }
    }

    /// Ends the server with SIGKILL, all its processes at once. What it had acknowledged is on its disk.
    ///
    /// # Errors
    /// The server is external.
    pub async fn kill(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::External => bail!("an external server is not ours to kill"),
            Server::Container(container) => container.kill().await,
            Server::Binaries(binaries) => binaries.kill().await,
        }
    }

    /// Starts a killed server again, same data, same address, and waits until it answers.
    ///
    /// # Errors
    /// The server is external, or it does not come up.
    pub async fn restart(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::External => bail!("an external server is not ours to restart"),
            Server::Container(container) => container.start_again().await?,
            Server::Binaries(binaries) => binaries.start_again()?,
        }
        self.wait_until_ready().await
    }

    /// Makes a standby that streams from this server, named `name` in `pg_stat_replication`, at this port or at a
    /// free one, and waits until it answers. It is this server's superuser's and has its databases.
    ///
    /// # Errors
    /// The server is not one from binaries, or the standby does not come up.
    pub async fn standby(&self, name: &str, port: Option<u16>) -> anyhow::Result<Self> {
        let Server::Binaries(primary) = &self.server else {
            bail!("only a server from this machine's binaries can have a standby");
        };
        let standby = primary.standby(name, port, Options::default().arguments()).await?;
        let admin = standby.connect_options();
        let server = Server::Binaries(standby);
        let postgres =
            Self { kind: self.kind, server, admin, databases: Mutex::default(), prefix: self.prefix.clone() };
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    /// Makes a standby the primary, and waits until it is.
    ///
    /// # Errors
    /// It is none, or is not promoted within a minute.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let mut connection = self.admin.connect().await?;
        let is_promoted: bool =
            sqlx::query_scalar("SELECT pg_promote(true, 60)").fetch_one(&mut connection).await?;
        connection.close().await?;
        if !is_promoted {
            bail!("the standby was not promoted within a minute");
        }
        Ok(())
    }

    /// Sets a parameter for good and lets the server read it.
    ///
    /// # Errors
    /// The server is away or does not know the parameter.
    pub async fn configure(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let mut connection = self.admin.connect().await?;
        // Neither can be bound as a parameter.
        for statement in
            [format!("ALTER SYSTEM SET {name} = '{value}'"), "SELECT pg_reload_conf()".to_owned()]
        {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// The port, where the server is one from binaries.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.server {
            Server::Binaries(binaries) => binaries.port(),
            Server::Container(_) | Server::External => self.admin.get_port(),
        }
    }

    /// A server that is not ours keeps its setting: say what will fail.
    async fn warn_of_prepared_transactions(&self) -> anyhow::Result<()> {
        let mut connection = self.admin.connect().await?;
        let setting: String =
            sqlx::query_scalar("SHOW max_prepared_transactions").fetch_one(&mut connection).await?;
        connection.close().await?;
        if let Some(warning) = prepared_transactions_warning(&setting) {
            say(&warning);
        }
        Ok(())
    }

    fn full_name(&self, database: &str) -> String {
        format!("{}{database}", self.prefix)
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let error = match answers(&self.admin).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let ended = match &self.server {
                Server::External => None,
                Server::Container(container) => container.ended().await,
                Server::Binaries(binaries) => binaries.ended(),
            };
            if let Some(log) = ended {
                bail!("PostgreSQL ended at once; its log: {log}");
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(error.context(format!("PostgreSQL does not answer after {READY_TIMEOUT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        let databases = std::mem::take(&mut *self.databases.lock().expect("no holder panics"));
        match &mut self.server {
            Server::External => {
                let admin = self.admin.clone();
                clean_up("a test's PostgreSQL", async move { drop_databases(&admin, &databases).await });
            }
            Server::Container(container) => clean_up("a test's PostgreSQL", container.removal()),
            Server::Binaries(binaries) => binaries.remove(),
        }
    }
}

/// What to say of a server's `max_prepared_transactions`.
fn prepared_transactions_warning(setting: &str) -> Option<String> {
    let is_enough = setting.parse().is_ok_and(|setting: u32| setting >= PREPARED_TRANSACTIONS_MIN);
    (!is_enough).then(|| {
        format!(
            "the server in {URL_VARIABLE} has max_prepared_transactions = {setting}: tests of two-phase commit need \
             {PREPARED_TRANSACTIONS_MIN} and will fail (ALTER SYSTEM SET max_prepared_transactions = \
             {PREPARED_TRANSACTIONS_MIN}, then restart the server)"
        )
    })
}

/// How the superuser of a server of ours gets in.
fn superuser(host: &str, port: u16, password: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .username("postgres")
        .password(password)
        .database("postgres")
}

/// One round trip, within a limit that a frozen server would exceed.
async fn answers(options: &PgConnectOptions) -> anyhow::Result<()> {
    tokio::time::timeout(Duration::from_secs(3), async {
        let mut connection: PgConnection = options.connect().await?;
        sqlx::query("SELECT 1").execute(&mut connection).await?;
        connection.close().await
    })
    .await
    .context("no answer within 3 s")??;
    Ok(())
}

async fn drop_databases(admin: &PgConnectOptions, databases: &[String]) -> anyhow::Result<()> {
    let mut connection = admin.connect().await?;
    for database in databases {
        let statement = AssertSqlSafe(format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)"));
        sqlx::query(statement).execute(&mut connection).await?;
    }
    Ok(())
}

/// Says on the output which server is used, so that a log shows what was covered.
fn announce(postgres: &TestPostgres) {
    say(&format!(
        "PostgreSQL: {} at {}:{}",
        postgres.kind,
        postgres.admin.get_host(),
        postgres.admin.get_port()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_prepared_transactions_are_named() {
        assert_eq!(prepared_transactions_warning("100"), None);
        for setting in ["0", "99"] {
            let warning = prepared_transactions_warning(setting).unwrap();
            assert!(warning.contains(&format!("max_prepared_transactions = {setting}:")), "{warning}");
        }
    }
}
