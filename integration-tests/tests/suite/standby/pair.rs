//! A primary and its standby, and one URL that names both.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::postgres::{Kind, Options, REQUIRE_CONTAINERS_VARIABLE, TestPostgres, is_available};
use integration_tests::wait::until;
use sqlx::{Connection as _, PgConnection};

/// The standby's name in `pg_stat_replication` and in `synchronous_standby_names`.
const STANDBY: &str = "standby";
const DATABASE: &str = "log";
const LIMIT: Duration = Duration::from_secs(60);

/// Whether the primary waits for the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replication {
    Synchronous,
    Asynchronous,
}

/// Two servers, of which one is the primary.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) primary: TestPostgres,
    pub(super) standby: TestPostgres,
    replication: Replication,
    url: String,
}

impl Pair {
    /// None, with a word about it, where no PostgreSQL binaries are: containers cannot stream to each other here.
    pub(super) async fn start(replication: Replication) -> anyhow::Result<Option<Self>> {
        if !is_available(Kind::Binaries).await? {
            // CI has them: there it must not be left out unnoticed.
            ensure!(
                std::env::var(REQUIRE_CONTAINERS_VARIABLE).as_deref() != Ok("1"),
                "no PostgreSQL binaries for a standby: `cargo xtask test` installs them as root"
            );
            say(
                "standby: LEFT OUT, no PostgreSQL binaries (initdb, postgres, pg_basebackup) on this machine",
            );
            return Ok(None);
        }
        let primary = TestPostgres::start(Options::default().kind(Kind::Binaries)).await?;
        let first = primary.create_database(DATABASE).await?;
        if replication == Replication::Synchronous {
            // Before the copy is made: a promoted standby waits for one of its own, too.
            primary.configure("synchronous_standby_names", STANDBY).await?;
        }
        let standby = primary.standby(STANDBY, None).await?;
        let hosts = |port: u16| format!("127.0.0.1:{port}");
        let both = format!("{},{}", hosts(primary.port()), hosts(standby.port()));
        let url = first.replace(&hosts(primary.port()), &both);
        ensure!(url.contains(&both), "the URL has another form than expected");
        let pair = Self { primary, standby, replication, url };
        pair.streams().await?;
        Ok(Some(pair))
    }

    /// Both servers' URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until the standby streams as it should.
    pub(super) async fn streams(&self) -> anyhow::Result<()> {
        let wanted = match self.replication {
            Replication::Synchronous => "sync",
            Replication::Asynchronous => "async",
        };
        until("the standby streams", LIMIT, async || {
            let mut connection = PgConnection::connect(&self.primary.admin_url()).await?;
            let look = "SELECT sync_state FROM pg_stat_replication WHERE application_name = $1 \
                AND state = 'streaming'";
            let state: Option<String> =
                sqlx::query_scalar(look).bind(STANDBY).fetch_optional(&mut connection).await?;
            connection.close().await?;
            ensure!(state.as_deref() == Some(wanted), "it is {state:?}");
            Ok(())
        })
        .await
    }

    /// The primary is dead: the standby takes its place, and a new standby comes up at the dead one's address.
    pub(super) async fn fail_over(self) -> anyhow::Result<Self> {
        let Self { primary: dead, standby: primary, replication, url } = self;
        primary.promote().await.context("promoting")?;
        let port = dead.port();
        drop(dead);
        let standby = primary.standby(STANDBY, Some(port)).await.context("a new standby")?;
        let pair = Self { primary, standby, replication, url };
        pair.streams().await?;
        Ok(pair)
    }
}
