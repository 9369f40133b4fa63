//! The four services of the trips as processes, each with a SQLite database of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use integration_tests::output::Scratch;
use integration_tests::ports::free_address;
use integration_tests::process::Process;
use integration_tests::programs::Program;
use integration_tests::wait::{http_client, until};

/// A service of the example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Agency,
    Flights,
    Hotels,
    Cars,
}

impl Service {
    pub(super) const ALL: [Self; 4] = [Self::Agency, Self::Flights, Self::Hotels, Self::Cars];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Agency => "agency",
            Self::Flights => "flights",
            Self::Hotels => "hotels",
            Self::Cars => "cars",
        }
    }
}

#[derive(Debug)]
struct Member {
    process: Process,
    address: SocketAddr,
    database_url: String,
}

/// The four services, in the order of [`Service::ALL`].
#[derive(Debug)]
pub(super) struct Services {
    members: Vec<Member>,
    http: reqwest::Client,
}

impl Services {
    /// Describes the services, with room for about so many trips.
    pub(super) fn new(
        scratch: &Scratch,
        coordinator_url: &str,
        trips: u32,
        trip_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        for service in Service::ALL {
            let address = free_address()?;
            let file = scratch.path().join(format!("{}.db", service.name()));
            let database_url = format!("sqlite://{}", file.display());
            let process = Process::new(scratch, service.name(), Program::Trips.path()?)
                .variable("LISTEN", address.to_string())
                .variable("COORDINATOR_URL", coordinator_url)
                .variable("DATABASE_URL", &database_url)
                .variable("RUST_LOG", "warn")
                .argument("service")
                .argument(service.name())
                .argument("--stop-with-stdin")
                .argument("--trip-timeout-ms")
                .argument(trip_timeout.as_millis().to_string())
                .argument("--demo-trips")
                .argument(trips.to_string());
            members.push(Member { process, address, database_url });
        }
        Ok(Self { members, http: http_client(Duration::from_secs(5))? })
    }

    /// Where a service listens, also after a restart.
    pub(super) fn url(&self, service: Service) -> String {
        format!("http://{}", self.members[service as usize].address)
    }

    /// A service's database.
    pub(super) fn database_url(&self, service: Service) -> &str {
        &self.members[service as usize].database_url
    }

    /// A service's process.
    pub(super) fn process(&mut self, service: Service) -> &mut Process {
        &mut self.members[service as usize].process
    }

    /// Waits until a service is attached to the coordinator.
    pub(super) async fn attached(&mut self, service: Service, limit: Duration) -> anyhow::Result<()> {
        let url = format!("{}/healthz", self.url(service));
        let what = format!("{} is attached", service.name());
        let http = self.http.clone();
        let process = self.process(service);
        let ended = until(&what, limit, async || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            // Not by its status: a compensation that was refused is no obstacle here.
            let answer: serde_json::Value = http.get(&url).send().await?.json().await?;
            ensure!(answer["attached"] == true, "{answer}");
            Ok(None)
        });
        match ended.await? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended with {status}:\n{}", service.name(), process.tail()),
        }
    }
}
