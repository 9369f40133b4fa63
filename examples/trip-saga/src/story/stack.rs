//! Everything that the story runs: the coordinator in this process, the services in theirs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use unanimity_coordinator::Node;
use unanimity_coordinator::engine::ListFilter;
use unanimity_sdk::Status;

use crate::services::process::ServiceProcess;
use crate::services::{Kind, Options, Running, http_client, start};

/// How long the services may take to attach to the coordinator.
const ATTACH_MAX: Duration = Duration::from_secs(20);

/// How services are started.
#[derive(Debug, Clone)]
pub enum Launch {
    /// As child processes of this program (the binary `trip-saga`), so that they can be killed.
    Processes(PathBuf),
    /// In this process: quicker, for tests.
    InProcess,
}

#[derive(Debug)]
enum Service {
    Process(Box<ServiceProcess>),
    InProcess(Running),
}

/// The coordinator and the four services.
#[derive(Debug)]
pub struct Stack {
    node: Node,
    coordinator_url: String,
    /// In the order of [`Kind::ALL`].
    services: Vec<Service>,
    database_urls: [String; 4],
}

impl Stack {
    /// Starts everything, with room for so many trips, over SQLite files in a directory.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn start(directory: &Path, launch: Launch, demo_trips: u32) -> anyhow::Result<Self> {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        // The name that `unanimity dev --data-dir` looks for.
        let log = directory.join("unanimity.db");
        let node = Node::builder().sqlite(log).listen(any_port).start().await.context("the coordinator")?;
        node.ready(Duration::from_secs(20)).await.context("the coordinator")?;
        let coordinator_url = node.url().context("the coordinator does not listen")?;
        let database_urls =
            Kind::ALL.map(|kind| format!("sqlite://{}", directory.join(format!("{kind}.db")).display()));
        let mut services = Vec::new();
        for (kind, database_url) in Kind::ALL.into_iter().zip(&database_urls) {
            let options = Options { demo_trips, ..Options::new(coordinator_url.as_str(), database_url) };
            services.push(launch_one(&launch, kind, options).await?);
        }
        let stack = Self { node, coordinator_url, services, database_urls };
        stack.attached().await?;
        Ok(stack)
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn coordinator_url(&self) -> &str {
        &self.coordinator_url
    }

    /// Where trips are booked.
    #[must_use]
    pub fn agency_url(&self) -> String {
        self.services[0].url()
    }

    /// Where the hotels' managers are.
    #[must_use]
    pub fn hotels_url(&self) -> String {
        self.services[2].url()
    }

    /// The databases of agency, flights, hotels and cars.
    #[must_use]
    pub fn database_urls(&self) -> [&str; 4] {
        self.database_urls.each_ref().map(String::as_str)
    }

    /// How many sagas the coordinator has not finished.
    ///
    /// # Errors
    /// If it cannot say.
    pub async fn open_transactions(&self) -> anyhow::Result<usize> {
        let mut open = 0;
        for status in [Status::Active, Status::Preparing, Status::Committing, Status::Aborting] {
            let filter = ListFilter { status: Some(status), limit: 100, ..ListFilter::default() };
            open += self.node.coordinator().list(filter).await?.transactions.len();
        }
        Ok(open)
    }

    pub(super) fn can_kill(&self) -> bool {
        self.services.iter().all(|service| matches!(service, Service::Process(_)))
    }

    pub(super) async fn kill(&mut self, victim: Kind) -> anyhow::Result<()> {
        self.process(victim)?.kill().await
    }

    pub(super) async fn restart(&mut self, victim: Kind) -> anyhow::Result<()> {
        self.process(victim)?.restart().await
    }

    /// Stops everything in good order, the coordinator last.
    ///
    /// # Errors
    /// If a service did not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        for service in self.services {
            match service {
                Service::Process(mut process) => process.stop().await?,
                Service::InProcess(running) => running.shutdown().await,
            }
        }
        self.node.shutdown().await;
        Ok(())
    }

    fn process(&mut self, kind: Kind) -> anyhow::Result<&mut ServiceProcess> {
        let found = self.services.iter_mut().find_map(|service| match service {
            Service::Process(process) if process.kind() == kind => Some(process),
            _ => None,
        });
        Ok(found.context("the services run in this process")?)
    }

    /// Waits until every service is attached.
    async fn attached(&self) -> anyhow::Result<()> {
        let http = http_client()?;
        let end = Instant::now() + ATTACH_MAX;
        for service in &self.services {
            let url = format!("{}/healthz", service.url());
            loop {
                let answer = http.get(&url).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                if Instant::now() >= end {
                    bail!("a service did not attach to the coordinator (RUST_LOG=info says more)");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

impl Service {
    fn url(&self) -> String {
        match self {
            Self::Process(process) => process.url(),
            Self::InProcess(running) => running.url(),
        }
    }
}

async fn launch_one(launch: &Launch, kind: Kind, options: Options) -> anyhow::Result<Service> {
    Ok(match launch {
        Launch::Processes(program) => {
            Service::Process(Box::new(ServiceProcess::spawn(program, kind, options).await?))
        }
        Launch::InProcess => Service::InProcess(start(kind, &options).await?),
    })
}
