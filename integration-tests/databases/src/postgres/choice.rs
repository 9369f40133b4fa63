//! Which kind of server a test gets: the rule as a pure function, and the look at the machine that feeds it.

use std::path::PathBuf;

use anyhow::bail;

use super::{REQUIRE_CONTAINERS_VARIABLE, URL_VARIABLE, binaries};
use crate::container;
use crate::kind::Kind;

/// What there is to choose from.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// The kind that the test insists on.
    pub(super) wanted: Option<Kind>,
    pub(super) has_url: bool,
    pub(super) has_docker: bool,
    /// Containers must be covered: a machine without Docker is an error.
    pub(super) requires_docker: bool,
    pub(super) binaries: Option<PathBuf>,
}

impl Machine {
    pub(super) async fn look(wanted: Option<Kind>) -> Self {
        let has_url = std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty());
        let requires_docker = std::env::var_os(REQUIRE_CONTAINERS_VARIABLE).is_some_and(|value| value == "1");
        let has_docker = container::docker_answers().await;
        Self { wanted, has_url, has_docker, requires_docker, binaries: binaries::directory() }
    }

    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::External => self.has_url,
            Kind::Container => self.has_docker,
            Kind::Binaries => self.binaries.is_some(),
        }
    }
}

/// Whether this machine has servers of `kind`. For tests of one kind, which have nothing to test without it.
///
/// # Errors
/// Containers are required and there are none.
pub async fn is_available(kind: Kind) -> anyhow::Result<bool> {
    let machine = Machine::look(Some(kind)).await;
    if kind == Kind::Container && machine.requires_docker {
        // Refused where it is missing, instead of skipped.
        choose(&machine)?;
    }
    Ok(machine.has(kind))
}

pub(super) fn choose(machine: &Machine) -> anyhow::Result<Kind> {
    if let Some(wanted) = machine.wanted {
        if machine.has(wanted) {
            return Ok(wanted);
        }
        bail!("this test needs PostgreSQL of kind {wanted}, and there is none here.\n{HELP}");
    }
    if machine.has_url {
        return Ok(Kind::External);
    }
    if machine.has_docker {
        return Ok(Kind::Container);
    }
    if machine.requires_docker {
        bail!("{REQUIRE_CONTAINERS_VARIABLE} is 1, and no Docker engine answers.\n{HELP}");
    }
    if machine.binaries.is_some() {
        return Ok(Kind::Binaries);
    }
    bail!("there is no PostgreSQL for the tests.\n{HELP}")
}

const HELP: &str = "One of these helps: start a Docker engine; install PostgreSQL (its initdb and postgres are looked \
for in PATH and /usr/lib/postgresql/*/bin); set UNANIMITY_TEST_DATABASE_URL to a server on which the tests may create \
databases. `cargo xtask test` does the second where it can.";

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Machine {
        let binaries = Some(PathBuf::from("/usr/lib/postgresql/17/bin"));
        Machine { wanted: None, has_url: true, has_docker: true, requires_docker: false, binaries }
    }

    #[test]
    fn takes_the_first_of_url_container_binaries() {
        let mut machine = everything();
        assert_eq!(choose(&machine).unwrap(), Kind::External);
        machine.has_url = false;
        assert_eq!(choose(&machine).unwrap(), Kind::Container);
        machine.has_docker = false;
        assert_eq!(choose(&machine).unwrap(), Kind::Binaries);
        machine.binaries = None;
        assert!(choose(&machine).unwrap_err().to_string().contains("start a Docker engine"));
    }

    #[test]
    fn required_containers_are_not_replaced_by_binaries() {
        let machine = Machine { has_url: false, has_docker: false, requires_docker: true, ..everything() };
        assert!(choose(&machine).unwrap_err().to_string().contains(REQUIRE_CONTAINERS_VARIABLE));
    }

    #[test]
    fn a_wanted_kind_is_taken_or_refused() {
        let mut machine = Machine { wanted: Some(Kind::Binaries), ..everything() };
        assert_eq!(choose(&machine).unwrap(), Kind::Binaries);
        machine.binaries = None;
        assert!(choose(&machine).is_err());
    }
}
