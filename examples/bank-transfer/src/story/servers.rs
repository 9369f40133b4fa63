//! The databases: those that were named, or servers that are found or started as the tests do it, for as long as the
//! story takes.

use anyhow::{Context as _, ensure};
use unanimity_test_databases::mariadb::{self, TestMariaDb};
use unanimity_test_databases::postgres::{self, TestPostgres};
use unanimity_test_databases::{Kind, say};

/// The banks' databases, and the servers that are ours.
#[derive(Debug, Default)]
pub(super) struct Databases {
    /// Bank and URL.
    pub(super) urls: Vec<(String, String)>,
    postgres: Vec<TestPostgres>,
    mariadb: Option<TestMariaDb>,
}

impl Databases {
    pub(super) async fn open(named: &[(String, String)]) -> anyhow::Result<Self> {
        if named.is_empty() {
            return Self::start().await;
        }
        ensure!(named.len() >= 2, "a transfer needs two banks: give --database NAME=URL twice or more");
        Ok(Self { urls: named.to_vec(), ..Self::default() })
    }

    /// Two PostgreSQL servers, and a MariaDB server where there is one.
    async fn start() -> anyhow::Result<Self> {
        const HELP: &str =
            "or name databases of yours: --database NAME=postgres://… --database NAME=mariadb://…";
        let mut databases = Self::default();
        for name in ["north", "south"] {
            // The tests' servers are not afraid of power failures; a bank's is.
            let options = postgres::Options::default().setting("fsync", "on");
            let server = TestPostgres::start(options).await.context(HELP)?;
            databases.urls.push((name.to_owned(), server.create_database(name).await?));
            databases.postgres.push(server);
        }
        let mut is_there = false;
        for kind in [Kind::External, Kind::Container, Kind::Binaries] {
            is_there = is_there || mariadb::is_available(kind).await;
        }
        if is_there {
            let server = TestMariaDb::start(mariadb::Options::default()).await?;
            databases.urls.push(("east".to_owned(), server.create_database("east").await?));
            databases.mariadb = Some(server);
        } else {
            say("no MariaDB on this machine: the story is told with PostgreSQL alone");
        }
        Ok(databases)
    }

    /// Bank by bank, what its database is.
    pub(super) fn kinds(&self) -> Vec<(String, &'static str)> {
        let kind = |url: &str| if url.starts_with("postgres") { "PostgreSQL" } else { "MariaDB" };
        self.urls.iter().map(|(name, url)| (name.clone(), kind(url))).collect()
    }
}
