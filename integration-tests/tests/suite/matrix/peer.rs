//! A participant as a process that dies (`src/bin/matrix-participant.rs`), and what became of its branches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::ports::free_address;
use integration_tests::process::Process;
use integration_tests::wait::{http_client, until};
use serde_json::Value;
use unanimity_proto::v1;

use super::story::Tm;
use super::world::{READY, World, arm};

/// The process.
pub(super) struct Peer {
    pub(super) process: Process,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Peer {
    /// Describes it: over the world's database, a participant of the world's coordinator, which must run.
    pub(super) async fn new(world: &World, tm: &Tm<'_>, name: &str) -> anyhow::Result<Self> {
        let info = tm.client.clone().get_info(v1::GetInfoRequest {}).await?.into_inner();
        let address = free_address()?;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_matrix-participant"));
        let process = Process::new(&world.scratch, name, program)
            .variable("LISTEN", address.to_string())
            .variable("DATABASE_URL", &world.bank_url)
            .variable("COORDINATOR_URL", world.coordinator.url())
            .variable("LOG_ID", info.log_id);
        // A dead one is noticed by its connection, a frozen one is none here.
        Ok(Self { process, address, http: http_client(Duration::from_secs(20))? })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Starts it, to die at a point or to live, and waits until it answers.
    pub(super) async fn start(&mut self, point: Option<(&str, u32)>) -> anyhow::Result<()> {
        self.process.unset(unanimity_failpoints::VARIABLE);
        if let Some((point, hit)) = point {
            arm(&mut self.process, point, hit)?;
        }
        self.process.start()?;
        let url = self.url("healthz");
        let (http, process) = (&self.http, &mut self.process);
        until("the participant answers", READY, async || {
            // Already at its point: what it owed was quicker.
            if process.ended()?.is_some() {
                return Ok(());
            }
            ensure!(http.get(&url).send().await?.status().is_success(), "not yet");
            Ok(())
        })
        .await
    }

    /// Posts; `None` if it died instead of answering.
    pub(super) async fn post(
        &mut self,
        path: &str,
        header: &str,
        body: &Value,
    ) -> anyhow::Result<Option<(u16, String)>> {
        let request = self.http.post(self.url(path)).header("unanimity-xid", header).json(body);
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        };
        match answer.await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let process = &mut self.process;
                until("its end", Duration::from_secs(10), async || process.ended()?.context("it still runs"))
                    .await
                    .with_context(|| format!("no answer from {path}: {error}"))?;
                Ok(None)
            }
        }
    }
}

/// What took effect in a participant's database for a transaction, in order.
pub(super) async fn effects(database_url: &str, xid: &str) -> anyhow::Result<Vec<String>> {
    let mut connection = connect(database_url).await?;
    Ok(sqlx::query_scalar("SELECT operation FROM effects WHERE xid = $1 ORDER BY at")
        .bind(xid)
        .fetch_all(&mut connection)
        .await?)
}

/// How many transactions are prepared in a database.
pub(super) async fn prepared(database_url: &str) -> anyhow::Result<i64> {
    let mut connection = connect(database_url).await?;
    Ok(sqlx::query_scalar("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
        .fetch_one(&mut connection)
        .await?)
}

pub(super) async fn connect(database_url: &str) -> anyhow::Result<sqlx::PgConnection> {
    Ok(<sqlx::PgConnection as sqlx::Connection>::connect(database_url).await?)
}
