//! Where the tests' MariaDB comes from. Tests of XA fail rather than skip without one, so it is installed where that can
//! be done.

use std::path::PathBuf;

use anyhow::bail;

use super::installer::{INSTALLER, install, may_install};
use super::succeeds;

/// The names that `integration-tests/databases/src/mariadb.rs` knows.
const URL_VARIABLE: &str = "UNANIMITY_TEST_MARIADB_URL";
const IMAGE_VARIABLE: &str = "UNANIMITY_TEST_MARIADB_IMAGE";
const DEFAULT_IMAGE: &str = "mariadb:11";

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Url,
    Docker,
    Binaries,
    /// Debian's package is installed first.
    Apt,
    /// The engine has no image yet; the tests try to pull it.
    Pull,
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    has_url: bool,
    has_image: bool,
    has_binaries: bool,
    may_install: bool,
    has_docker: bool,
}

/// Makes sure that the tests will find a MariaDB.
pub(super) fn set_up() -> anyhow::Result<()> {
    let image = std::env::var(IMAGE_VARIABLE).ok().filter(|image| !image.is_empty());
    let image = image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned());
    let machine = Machine {
        has_url: std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()),
        has_image: succeeds("docker", &["image", "inspect", &image]),
        has_binaries: has_binaries(),
        may_install: may_install(),
        has_docker: succeeds("docker", &["info"]),
    };
    match machine.choose()? {
        Source::Url => println!("MariaDB for the tests: the server in {URL_VARIABLE}"),
        Source::Docker => println!("MariaDB for the tests: containers of {image}"),
        Source::Binaries => println!("MariaDB for the tests: the binaries of this machine"),
        Source::Apt => {
            println!("MariaDB for the tests: installing Debian's package");
            install(&["mariadb"])?;
        }
        Source::Pull => println!("MariaDB for the tests: containers of {image}, if it can be pulled"),
    }
    Ok(())
}

impl Machine {
    fn choose(self) -> anyhow::Result<Source> {
        Ok(match self {
            Self { has_url: true, .. } => Source::Url,
            Self { has_image: true, .. } => Source::Docker,
            Self { has_binaries: true, .. } => Source::Binaries,
            // Before the pull: whether that will succeed is known only when the tests run.
            Self { may_install: true, .. } => Source::Apt,
            Self { has_docker: true, .. } => Source::Pull,
            _ => bail!(
                "the tests need a MariaDB. One of these helps: set {URL_VARIABLE} to a server on which they may create \
                 databases; start a Docker engine; install MariaDB (`bash {INSTALLER} mariadb` as root, or mariadbd and \
                 mariadb-install-db in PATH)"
            ),
        })
    }
}

/// Whether the server's programs are there, looked for as the tests do it.
fn has_binaries() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from)).collect();
    ["mariadbd", "mariadb-install-db"]
        .iter()
        .all(|program| folders.iter().any(|folder| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_of_url_image_binaries_package_pull() {
        let mut machine = Machine {
            has_url: true,
            has_image: true,
            has_binaries: true,
            may_install: true,
            has_docker: true,
        };
        assert_eq!(machine.choose().unwrap(), Source::Url);
        machine.has_url = false;
        assert_eq!(machine.choose().unwrap(), Source::Docker);
        machine.has_image = false;
        assert_eq!(machine.choose().unwrap(), Source::Binaries);
        machine.has_binaries = false;
        assert_eq!(machine.choose().unwrap(), Source::Apt);
        machine.may_install = false;
        assert_eq!(machine.choose().unwrap(), Source::Pull);
        machine.has_docker = false;
        assert!(machine.choose().unwrap_err().to_string().contains(URL_VARIABLE));
    }
}
