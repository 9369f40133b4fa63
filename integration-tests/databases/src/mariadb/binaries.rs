//! MariaDB from the binaries of this machine: a throw-away data directory in a temporary one.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail};
use sqlx::mysql::MySqlConnectOptions;
use tempfile::TempDir;

use super::superuser;
use crate::RUN_VARIABLE;
use crate::ports::free_port;
use crate::system::{Account, signal, stop, unprivileged_account};

/// Where the two programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    server: PathBuf,
    install: PathBuf,
}

/// A server in a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Binaries {
    programs: Programs,
    /// Holds the data directory, the socket and the server's log.
    home: TempDir,
    account: Option<Account>,
    arguments: Vec<String>,
    port: u16,
    password: String,
    server: Mutex<Option<Child>>,
}

/// In PATH, else where Debian puts servers, which is not in every user's PATH.
pub(super) fn programs() -> Option<Programs> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from)).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    Some(Programs { server: find("mariadbd")?, install: find("mariadb-install-db")? })
}

impl Binaries {
    pub(super) async fn start(arguments: Vec<String>) -> anyhow::Result<Self> {
        let programs = programs().context("no mariadbd and mariadb-install-db on this machine")?;
        let account = unprivileged_account(&["mysql", "nobody"])?;
        let run = std::env::var(RUN_VARIABLE).unwrap_or_else(|_| "none".to_owned());
        let home = tempfile::Builder::new().prefix(&format!("unanimity-mariadb-{run}-")).tempdir()?;
        if let Some(account) = account {
            std::os::unix::fs::chown(home.path(), Some(account.user), Some(account.group))?;
        }
        let password = format!("{:016x}", fastrand::u64(..));
        let port = free_port()?;
        let server = Mutex::new(None);
        let binaries = Self { programs, home, account, arguments, port, password, server };
        binaries.initialise().await?;
        binaries.start_again()?;
        Ok(binaries)
    }

    pub(super) fn connect_options(&self) -> MySqlConnectOptions {
        superuser("127.0.0.1", self.port, &self.password)
    }

    /// Makes the system tables, and the superuser that `connect_options` names.
    async fn initialise(&self) -> anyhow::Result<()> {
        let accounts = self.home.path().join("accounts.sql");
        // One statement a line: that is how the server's bootstrap reads.
        let sql = format!(
            "FLUSH PRIVILEGES;\n\
             CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{}';\n\
             GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n",
            self.password
        );
        std::fs::write(&accounts, sql)?;
        let mut command = self.command(&self.programs.install);
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--extra-file={}", accounts.display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
            // Lost power is not what tests are about here; a killed server finds its files all the same.
            .args([
                "--innodb-flush-method=nosync",
                "--innodb-use-native-aio=0",
                "--innodb-log-file-size=32M",
            ]);
        let output =
            tokio::process::Command::from(command).output().await.context("running mariadb-install-db")?;
        if !output.status.success() {
            bail!(
                "mariadb-install-db failed: {}\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    pub(super) fn start_again(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().expect("no holder panics");
        if server.is_some() {
            bail!("the server runs already: kill it first");
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let home = self.home.path();
        let child = self
            .command(&self.programs.server)
            // The machine's own settings are for its own server. Must be the first argument.
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--port={}", self.port))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--socket={}", home.join("socket").display()))
            .arg(format!("--pid-file={}", home.join("pid").display()))
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: an interrupt at the terminal reaches the test, which then cleans up.
            .process_group(0)
            .spawn()
            .context("starting mariadbd")?;
        *server = Some(child);
        Ok(())
    }

    pub(super) fn pause(&self) -> anyhow::Result<()> {
        stop(self.pid()?)
    }

    pub(super) fn unpause(&self) -> anyhow::Result<()> {
        signal("CONT", &[self.pid()?])
    }

    /// MariaDB is one process; when it is collected, nothing of it is left.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        let child = self.server.lock().expect("no holder panics").take();
        let mut child = child.context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The end of the log, where the server is no longer running.
    pub(super) fn ended(&self) -> Option<String> {
        let mut server = self.server.lock().expect("no holder panics");
        let status = server.as_mut()?.try_wait().ok()??;
        *server = None;
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        Some(format!("{status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
    }

    /// Ends the server without ceremony; the directory goes when `self` does.
    pub(super) fn remove(&mut self) {
        // An error means that it does not run.
        self.kill().ok();
    }

    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        // The account may not enter the directory that the tests run in.
        command.current_dir(self.home.path()).stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.server
            .lock()
            .expect("no holder panics")
            .as_ref()
            .map(Child::id)
            .context("the server does not run")
    }
}

impl Drop for Binaries {
    fn drop(&mut self) {
        // Also where the start failed half-way and no TestMariaDb came to be.
        self.remove();
    }
}
