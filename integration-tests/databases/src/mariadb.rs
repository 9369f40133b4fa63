//! A MariaDB server for a test, found wherever there is one.
//!
//! In this order: the server that `UNANIMITY_TEST_MARIADB_URL` names; a container, where a Docker engine answers and has
//! the image (`UNANIMITY_TEST_MARIADB_IMAGE`, else `mariadb:11`); the MariaDB binaries of this machine, with a throw-away
//! data directory; a container whose image the engine has to pull. Unlike PostgreSQL's, the image is not required where containers are: without a
//! registry nobody builds one, and the binaries take its place.
//!
//! A commit or `XA PREPARE` that a server of ours acknowledged is on its disk: killed and started again, it knows it.
//! Servers belong to one [`TestMariaDb`] and go with it; what a killed test leaves is swept by `cargo xtask test`.

mod binaries;
mod choice;

use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use self::binaries::Binaries;
use crate::cleanup::clean_up;
use crate::container::{self, Container};
use crate::say;

pub use self::choice::is_available;
pub use crate::kind::Kind;

/// Names a server that is used as it is.
pub const URL_VARIABLE: &str = "UNANIMITY_TEST_MARIADB_URL";
/// The image that containers run.
pub const IMAGE_VARIABLE: &str = "UNANIMITY_TEST_MARIADB_IMAGE";

const DEFAULT_IMAGE: &str = "mariadb:11";
/// How long a server may take until it answers. A container initialises its data first, which took 15 s on a busy
/// machine with two cores.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// A port can be taken between our look at it and the server's start; three times in a row it is something else.
const START_ATTEMPTS: u32 = 3;
/// How long our clean-up waits for the lock of a table that a forgotten XA transaction holds.
const DROP_LOCK_WAIT_SECONDS: u32 = 5;

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

    /// Sets a variable of the server (`mariadbd --name=value`). An external server stays as it is.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The server's arguments. Ours come first: of a variable given twice, MariaDB takes the last.
    ///
    /// Durable, as a production server that carries XA must be: the redo log goes to the disk with each commit and each
    /// `XA PREPARE`; there is no binary log that would have to agree with it. What makes a start slow is small or off.
    fn arguments(&self) -> Vec<String> {
        [
            ("innodb-flush-log-at-trx-commit", "1"),
            ("skip-log-bin", ""),
            ("max-connections", "200"),
            ("character-set-server", "utf8mb4"),
            ("innodb-buffer-pool-size", "32M"),
            ("innodb-log-file-size", "32M"),
            // io_uring is forbidden in many sandboxes, and then warns at each start.
            ("innodb-use-native-aio", "0"),
            // Names of clients do not matter, and a resolver that hangs would make each connection hang.
            ("skip-name-resolve", ""),
        ]
        .into_iter()
        .chain(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map(|(name, value)| if value.is_empty() { format!("--{name}") } else { format!("--{name}={value}") })
        .collect()
    }
}

/// A running MariaDB server. Dropping it removes what [`TestMariaDb::start`] and
/// [`TestMariaDb::create_database`] made, and nothing else.
#[derive(Debug)]
pub struct TestMariaDb {
    kind: Kind,
    server: Server,
    /// How to reach the server as a user who may do everything, with no database chosen.
    admin: MySqlConnectOptions,
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

impl TestMariaDb {
    /// Finds or starts a server and waits until it answers.
    ///
    /// # Errors
    /// No kind of server is to be had (the message says what would help), or it did not come up.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let kind = choice::choose(options.kind).await?;
        let mut attempt = 1;
        let mariadb = loop {
            match Self::start_kind(kind, &options).await {
                Ok(mariadb) => break mariadb,
                Err(error) if attempt == START_ATTEMPTS || kind == Kind::External => {
                    let help = choice::HELP;
                    return Err(
                        error.context(format!("no MariaDB of kind {kind} after {attempt} attempts.\n{help}"))
                    );
                }
                Err(_) => attempt += 1,
            }
        };
        let (host, port) = (mariadb.admin.get_host(), mariadb.admin.get_port());
        say(&format!("MariaDB: {kind} at {host}:{port}"));
        Ok(mariadb)
    }

    async fn start_kind(kind: Kind, options: &Options) -> anyhow::Result<Self> {
        let (server, admin, prefix) = match kind {
            Kind::External => {
                let url =
                    std::env::var(URL_VARIABLE).with_context(|| format!("{URL_VARIABLE} is not set"))?;
                let admin = MySqlConnectOptions::from_str(&url)
                    .with_context(|| format!("{URL_VARIABLE} is no URL"))?;
                (Server::External, admin, format!("unanimity_test_{:08x}_", fastrand::u32(..)))
            }
            Kind::Container => {
                let container = Container::start(container::Server {
                    image: image(),
                    port: 3306,
                    password_variable: "MARIADB_ROOT_PASSWORD",
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
        // From here on `mariadb` cleans up if the server does not become ready.
        let mariadb = Self { kind, server, admin, databases: Mutex::default(), prefix };
        mariadb.wait_until_ready().await?;
        Ok(mariadb)
    }

    /// Which kind of server this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The URL of `database`, as [`TestMariaDb::create_database`] named it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.admin.clone().database(&self.full_name(database)).to_url_lossy().to_string()
    }

    /// The URL of the server with no database chosen.
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
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE `{full_name}` CHARACTER SET utf8mb4")))
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

    /// Ends the server with SIGKILL. What it had acknowledged is on its disk.
    ///
    /// # Errors
    /// The server is external, or it does not run.
    pub async fn kill(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::External => bail!("an external server is not ours to kill"),
            Server::Container(container) => container.kill().await,
            Server::Binaries(binaries) => binaries.kill(),
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
                bail!("MariaDB ended at once; its log: {log}");
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(error.context(format!("MariaDB does not answer after {READY_TIMEOUT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for TestMariaDb {
    fn drop(&mut self) {
        let databases = std::mem::take(&mut *self.databases.lock().expect("no holder panics"));
        match &mut self.server {
            Server::External => {
                let admin = self.admin.clone();
                clean_up("a test's MariaDB", async move { drop_databases(&admin, &databases).await });
            }
            Server::Container(container) => clean_up("a test's MariaDB", container.removal()),
            Server::Binaries(binaries) => binaries.remove(),
        }
    }
}

/// The image to run.
fn image() -> String {
    std::env::var(IMAGE_VARIABLE)
        .ok()
        .filter(|image| !image.is_empty())
        .unwrap_or_else(|| DEFAULT_IMAGE.to_owned())
}

/// How the superuser of a server of ours gets in.
fn superuser(host: &str, port: u16, password: &str) -> MySqlConnectOptions {
    MySqlConnectOptions::new()
        .host(host)
        .port(port)
        .username("root")
        .password(password)
        .ssl_mode(MySqlSslMode::Disabled)
}

/// One round trip, within a limit that a frozen server would exceed.
async fn answers(options: &MySqlConnectOptions) -> anyhow::Result<()> {
    tokio::time::timeout(Duration::from_secs(3), async {
        let mut connection: MySqlConnection = options.connect().await?;
        sqlx::query("SELECT 1").execute(&mut connection).await?;
        connection.close().await
    })
    .await
    .context("no answer within 3 s")??;
    Ok(())
}

async fn drop_databases(admin: &MySqlConnectOptions, databases: &[String]) -> anyhow::Result<()> {
    let mut connection = admin.connect().await?;
    let wait = AssertSqlSafe(format!("SET lock_wait_timeout = {DROP_LOCK_WAIT_SECONDS}"));
    sqlx::query(wait).execute(&mut connection).await?;
    for database in databases {
        let statement = AssertSqlSafe(format!("DROP DATABASE IF EXISTS `{database}`"));
        sqlx::query(statement).execute(&mut connection).await?;
    }
    Ok(())
}
