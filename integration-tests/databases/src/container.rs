//! A database server in a container of its own, run through testcontainers.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions};
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::net::TcpStream;

use crate::RUN_VARIABLE;
use crate::ports::free_port;

/// The label by which `cargo xtask test` finds what a killed test left behind; its value is the run's id.
const RUN_LABEL: &str = "unanimity-test-run";

/// How long an engine may take to make and start a container, with its pull.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// What to run.
#[derive(Debug)]
pub(crate) struct Server {
    /// `name:tag`.
    pub(crate) image: String,
    /// The port on which it listens inside of the container.
    pub(crate) port: u16,
    /// The variable by which the image is told the superuser's password.
    pub(crate) password_variable: &'static str,
    /// What goes to the server's program.
    pub(crate) arguments: Vec<String>,
}

/// A running container. Whoever owns it calls [`Container::removal`] at its end.
#[derive(Debug)]
pub(crate) struct Container {
    /// `None` only after [`Container::removal`].
    inner: Option<ContainerAsync<GenericImage>>,
    host: String,
    port: u16,
    password: String,
    paused: AtomicBool,
}

/// Whether a Docker engine answers within a moment.
pub(crate) async fn docker_answers() -> bool {
    let ping = async { docker_client_instance().await.ok()?.ping().await.ok() };
    tokio::time::timeout(Duration::from_secs(5), ping).await.is_ok_and(|answer| answer.is_some())
}

/// Whether the engine that answers has the image already. [`Container::start`] pulls one that it has not.
pub(crate) async fn image_is_there(image: &str) -> bool {
    let look = async { docker_client_instance().await.ok()?.inspect_image(image).await.ok() };
    tokio::time::timeout(Duration::from_secs(5), look).await.is_ok_and(|image| image.is_some())
}

impl Container {
    pub(crate) async fn start(server: Server) -> anyhow::Result<Self> {
        let (name, tag) = split_image(&server.image);
        let password = format!("{:016x}", fastrand::u64(..));
        // Fixed, because the engine gives a container with a random port another one at each start.
        let port = free_port()?;
        let run = std::env::var(RUN_VARIABLE).unwrap_or_else(|_| "none".to_owned());
        let inner = GenericImage::new(name, tag)
            // Readiness is ours: the server answers a query from outside.
            .with_wait_for(WaitFor::Nothing)
            .with_mapped_port(port, server.port.tcp())
            .with_env_var(server.password_variable, &password)
            .with_label(RUN_LABEL, run)
            .with_startup_timeout(START_TIMEOUT)
            .with_cmd(server.arguments)
            .start()
            .await
            .with_context(|| format!("starting a container of {}", server.image))?;
        // The engine forwards the port from the moment that the container runs. Asked for its host, testcontainers may
        // name the bridge's address where the loopback interface would do.
        let is_local = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
        let host = if is_local {
            Ipv4Addr::LOCALHOST.to_string()
        } else {
            inner.get_host().await.context("the engine's host")?.to_string()
        };
        Ok(Self { inner: Some(inner), host, port, password, paused: AtomicBool::new(false) })
    }

    /// Where the engine forwards to the server.
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The superuser's.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        self.inner().pause().await?;
        self.paused.store(true, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) async fn unpause(&self) -> anyhow::Result<()> {
        self.inner().unpause().await?;
        self.paused.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// By the engine's API: testcontainers only stops, which asks the server first.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let docker = docker_client_instance().await?;
        let signal = KillContainerOptions { signal: "SIGKILL".to_owned() };
        docker.kill_container(self.inner().id(), Some(signal)).await?;
        for _ in 0..200 {
            if !self.inner().is_running().await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the container still runs 10 s after SIGKILL")
    }

    pub(crate) async fn start_again(&self) -> anyhow::Result<()> {
        Ok(self.inner().start().await?)
    }

    /// The end of the log, where the container is no longer running.
    pub(crate) async fn ended(&self) -> Option<String> {
        if self.inner().is_running().await.unwrap_or(true) {
            return None;
        }
        let log = self.inner().stderr_to_vec().await.unwrap_or_default();
        Some(String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned())
    }

    /// Removes the container with its data. The destructor of testcontainers is not used: it has no time limit and
    /// panics outside of a runtime.
    pub(crate) fn removal(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
        let inner = self.inner.take();
        let paused = self.paused.load(Ordering::SeqCst);
        let id = inner.as_ref().map(|container| container.id().to_owned());
        std::mem::forget(inner);
        async move {
            let Some(id) = id else { return Ok(()) };
            let docker: Docker = docker_client_instance().await?;
            if paused {
                // A frozen process cannot take a signal.
                docker.unpause_container(&id).await.ok();
            }
            let options =
                RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
            Ok(docker.remove_container(&id, Some(options)).await?)
        }
    }

    fn inner(&self) -> &ContainerAsync<GenericImage> {
        self.inner.as_ref().expect("taken only by the owner's destructor")
    }
}

/// Splits `name:tag`; a colon before the last slash belongs to a registry's port.
fn split_image(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag() {
        assert_eq!(split_image("postgres:17-alpine"), ("postgres", "17-alpine"));
        assert_eq!(split_image("postgres"), ("postgres", "latest"));
        assert_eq!(split_image("mirror.example:5000/postgres"), ("mirror.example:5000/postgres", "latest"));
        assert_eq!(split_image("mirror.example:5000/postgres:16"), ("mirror.example:5000/postgres", "16"));
    }
}
