//! Which kind of server a test gets: the rule as a pure function, and the look at the machine that feeds it.

use anyhow::bail;

use super::{URL_VARIABLE, binaries, image};
use crate::container;
use crate::kind::Kind;

/// What there is to choose from.
#[derive(Debug, Clone, Copy)]
struct Machine {
    has_url: bool,
    /// A Docker engine answers.
    has_docker: bool,
    /// And it has the image.
    has_image: bool,
    has_binaries: bool,
}

impl Machine {
    async fn look() -> Self {
        let has_docker = container::docker_answers().await;
        Self {
            has_url: std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()),
            has_docker,
            has_image: has_docker && container::image_is_there(&image()).await,
            has_binaries: binaries::programs().is_some(),
        }
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::External => self.has_url,
            Kind::Container => self.has_image,
            Kind::Binaries => self.has_binaries,
        }
    }

    fn choose(self, wanted: Option<Kind>) -> anyhow::Result<Kind> {
        let allows = |kind| wanted.is_none_or(|wanted| wanted == kind);
        let mut order = [Kind::External, Kind::Container, Kind::Binaries].into_iter();
        if let Some(kind) = order.find(|kind| allows(*kind) && self.has(*kind)) {
            return Ok(kind);
        }
        // Last, because whether the image can be pulled is known only afterwards, and a network without a registry may
        // take minutes to say no.
        if allows(Kind::Container) && self.has_docker {
            return Ok(Kind::Container);
        }
        let kind = wanted.map_or_else(String::new, |kind| format!(" of kind {kind}"));
        bail!("there is no MariaDB{kind} for the tests.\n{HELP}")
    }
}

/// The kind of server that a test gets.
pub(super) async fn choose(wanted: Option<Kind>) -> anyhow::Result<Kind> {
    Machine::look().await.choose(wanted)
}

/// Whether this machine has servers of `kind` without a pull. For tests of one kind, which have nothing to test without
/// it.
pub async fn is_available(kind: Kind) -> bool {
    Machine::look().await.has(kind)
}

/// What to do where none was found.
pub(super) const HELP: &str = "One of these helps: install Debian's package mariadb-server \
(`integration-tests/install-servers.sh mariadb` does it and keeps the service off; mariadbd and mariadb-install-db are looked for in \
PATH and /usr/sbin); start a Docker engine that has the image mariadb:11, or the one in UNANIMITY_TEST_MARIADB_IMAGE, or \
can pull it; set UNANIMITY_TEST_MARIADB_URL to a server on which the tests may create databases. `cargo xtask test` does \
the first where it can.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_of_url_image_binaries_pull() {
        let mut machine = Machine { has_url: true, has_docker: true, has_image: true, has_binaries: true };
        assert_eq!(machine.choose(None).unwrap(), Kind::External);
        machine.has_url = false;
        assert_eq!(machine.choose(None).unwrap(), Kind::Container);
        machine.has_image = false;
        assert_eq!(machine.choose(None).unwrap(), Kind::Binaries);
        machine.has_binaries = false;
        assert_eq!(machine.choose(None).unwrap(), Kind::Container);
        machine.has_docker = false;
        let error = machine.choose(None).unwrap_err().to_string();
        assert!(error.contains("mariadb-server"), "{error}");
    }

    #[test]
    fn a_wanted_kind_is_taken_or_refused() {
        let mut machine = Machine { has_url: true, has_docker: false, has_image: false, has_binaries: true };
        assert_eq!(machine.choose(Some(Kind::Binaries)).unwrap(), Kind::Binaries);
        machine.has_binaries = false;
        let error = machine.choose(Some(Kind::Binaries)).unwrap_err().to_string();
        assert!(error.contains("of kind binaries"), "{error}");
    }
}
