//! Throw-away servers that can be killed and started again.
//!
//! A guard, a shell that reads our pipe, owns the server: it does as it is told, and when the pipe
//! closes, however this process ended, it kills the server and removes its directory.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// Starts, kills and restarts one server.
pub(super) struct Server {
    pub(super) port: u16,
    guard: Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Server {
    /// PostgreSQL with these settings; `None` if its programs are not on this machine.
    pub(super) fn postgres(settings: &str) -> Option<Self> {
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs = find(debian.map(|entry| entry.path().join("bin")), &["initdb", "postgres"])?;
        Some(Self::start(|home, port| {
            format!(
                "'{programs}/initdb' -D '{home}/data' -U test -A trust --no-sync >'{home}/log' 2>&1
                 start() {{ exec '{programs}/postgres' -D '{home}/data' -p {port} -c listen_addresses=127.0.0.1 \
                     -c unix_socket_directories= -c max_connections=300 -c fsync=off {settings}; }}"
            )
        }))
    }

    /// MariaDB; `None` if its programs are not on this machine.
    pub(super) fn mariadb() -> Option<Self> {
        let places = ["/usr/bin", "/usr/sbin"].map(std::path::PathBuf::from);
        let install = find(places.clone().into_iter(), &["mariadb-install-db"])?;
        let server = find(places.into_iter(), &["mariadbd"])?;
        Some(Self::start(|home, port| {
            format!(
                "for host in % localhost; do
                     # One statement a line: that is how the server reads it.
                     echo \"CREATE USER IF NOT EXISTS test@'$host';\"
                     echo \"GRANT ALL ON *.* TO test@'$host';\"
                 done >'{home}/init.sql'
                 '{install}/mariadb-install-db' --no-defaults --datadir='{home}/data' --skip-test-db \
                     --auth-root-authentication-method=normal >'{home}/log' 2>&1
                 start() {{ exec '{server}/mariadbd' --no-defaults --datadir='{home}/data' --port={port} \
                     --bind-address=127.0.0.1 --socket='{home}/socket' --pid-file='{home}/pid' \
                     --init-file='{home}/init.sql' --innodb-flush-log-at-trx-commit=1 \
                     --innodb-buffer-pool-size=32M; }}"
            )
        }))
    }

    #[allow(clippy::zombie_processes, reason = "it ends after us")]
    fn start(script: impl FnOnce(&str, u16) -> String) -> Self {
        let home = tempfile::tempdir().unwrap().keep().display().to_string();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = format!(
            "set -e; cd '{home}'
             {}
             start >>'{home}/log' 2>&1 & pid=$!
             echo done
             while read -r order; do
                 if [ $order = kill ]; then
                     # Stopped first: a postmaster that lives would replace the children that we kill.
                     kill -STOP $pid; all=\"$pid $(pgrep -P $pid || true)\"; kill -KILL $all
                     for one in $all; do while kill -0 $one 2>/dev/null; do wait $one 2>/dev/null || true; sleep 0.02; done; done
                 else
                     start >>'{home}/log' 2>&1 & pid=$!
                 fi
                 echo done
             done
             kill -KILL $pid $(pgrep -P $pid || true) || true
             rm -rf '{home}'",
            script(&home, port)
        );
        let mut command = Command::new("sh");
        // The servers refuse to run as root.
        if Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n")) {
            assert!(Command::new("chown").args(["-R", "nobody", &home]).status().unwrap().success());
            command = Command::new("runuser");
            command.args(["-u", "nobody", "--", "sh"]);
        }
        let mut guard =
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (guard.stdin.take().unwrap(), guard.stdout.take().unwrap());
        let server = Self { port, guard: Mutex::new((guard, input, BufReader::new(output))) };
        server.confirmed(&home);
        server
    }

    /// Ends the server with SIGKILL, all its processes at once.
    pub(super) fn kill(&self) {
        self.order("kill");
    }

    /// Starts the killed server again: same data, same port.
    pub(super) fn restart(&self) {
        self.order("start");
    }

    fn order(&self, order: &str) {
        writeln!(self.guard.lock().unwrap().1, "{order}").unwrap();
        self.confirmed(order);
    }

    fn confirmed(&self, what: &str) {
        let mut line = String::new();
        self.guard.lock().unwrap().2.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{what}");
    }
}

fn find(places: impl Iterator<Item = std::path::PathBuf>, programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(places)
        .find(|place| programs.iter().all(|program| place.join(program).is_file()))
        .map(|place| place.display().to_string())
}
