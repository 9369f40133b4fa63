//! A PostgreSQL for the tests: the server behind `UNANIMITY_TEST_DATABASE_URL`, or a throw-away
//! cluster from binaries found on this machine. Never a silent skip.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The server of this test run, started at first use.
struct Server {
    /// A URL whose database's name is replaced for each test.
    url: String,
    /// Stops the cluster and removes its files when our end of its standard input closes, however
    /// this process ends.
    _keeper: Option<Child>,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A database of its own for one test, empty.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let server = SERVER.get_or_init(start);
        let name = format!("unanimity_log_test_{}", uuid::Uuid::new_v4().simple());
        admin(&server.url, &format!("CREATE DATABASE {name}")).await;
        Self { url: with_database(&server.url, &name), name }
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the test's database")
    }

    /// Runs a statement on a connection of its own.
    pub(crate) async fn run(&self, sql: &str) {
        admin(&self.url, sql).await;
    }

    pub(crate) async fn admin(&self, sql: &str) {
        admin(&SERVER.get().expect("started").url, sql).await;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn remove(self) {
        admin(&SERVER.get().expect("started").url, &format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .await;
    }
}

async fn admin(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("the test's server");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect(sql);
    connection.close().await.expect("goodbye");
}

fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(b, q)| (b, format!("?{q}")));
    let after_scheme = base.find("://").map_or(0, |at| at + 3);
    let end = base[after_scheme..].find('/').map_or(base.len(), |at| after_scheme + at);
    format!("{}/{name}{query}", &base[..end])
}

fn start() -> Server {
    if let Ok(url) = std::env::var("UNANIMITY_TEST_DATABASE_URL") {
        eprintln!("log tests: PostgreSQL from UNANIMITY_TEST_DATABASE_URL");
        return Server { url, _keeper: None };
    }
    let Some(binaries) = find_binaries() else {
        panic!(
            "no PostgreSQL for the log's tests: set UNANIMITY_TEST_DATABASE_URL to a server on which \
             databases may be created, or install PostgreSQL's server binaries (initdb, pg_ctl)"
        )
    };
    eprintln!("log tests: throw-away PostgreSQL cluster from {}", binaries.display());
    start_cluster(&binaries)
}

fn find_binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for version in (13..=18).rev() {
        places.push(PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    }
    let initdb = places.iter().map(|place| place.join("initdb")).find(|file| file.is_file())?;
    // Through links: the other binaries lie beside the real one.
    Some(initdb.canonicalize().ok()?.parent()?.to_owned())
}

/// fsync is off: these tests crash nothing, and thousands of sequences are to fit into a minute.
const SCRIPT: &str = r#"
cd "$HOME_DIR" || exit 1
"$BIN/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
"$BIN/pg_ctl" -D data -l server.log -w start -o "-p $PORT -k $HOME_DIR -c listen_addresses=127.0.0.1 \
  -c fsync=off -c max_connections=200 -c max_prepared_transactions=20 -c shared_buffers=64MB" >start.log 2>&1 \
  || { cat start.log server.log >&2; exit 1; }
echo ready
cat >/dev/null
"$BIN/pg_ctl" -D data -m immediate stop >/dev/null 2>&1
rm -rf "$HOME_DIR"
"#;

fn start_cluster(binaries: &Path) -> Server {
    let home = tempfile::Builder::new().prefix("unanimity-log-pg-").tempdir().expect("a directory").keep();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut command = if root {
        // PostgreSQL refuses to run as root.
        let user = if Command::new("id").arg("postgres").output().is_ok_and(|id| id.status.success()) {
            "postgres"
        } else {
            "nobody"
        };
        let owned = Command::new("chown").arg(user).arg(&home).status().expect("chown");
        assert!(owned.success(), "chown {user} {}", home.display());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups", "sh", "-c", SCRIPT]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]);
        command
    };
    let mut keeper = command
        .env("BIN", binaries)
        .env("HOME_DIR", &home)
        .env("PORT", port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut line = String::new();
    let out = keeper.stdout.as_mut().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "ready", "the cluster in {} did not start", home.display());
    Server { url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), _keeper: Some(keeper) }
}
