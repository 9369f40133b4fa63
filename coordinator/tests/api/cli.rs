//! The real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Callback, Fixture, http_client};

fn unanimity(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimity"));
    for (variable, _) in std::env::vars() {
        if variable.starts_with("UNANIMITY_") {
            command.env_remove(variable);
        }
    }
    command.args(arguments);
    command
}

pub(crate) async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(unanimity(arguments));
    tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("in time").expect("it runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A running `unanimity`; killed if the test ends early.
struct Running {
    child: Child,
    url: String,
}

impl Running {
    /// `dev --json`: its first line says where it is.
    fn dev(arguments: &[&str]) -> Self {
        let mut all = vec!["dev", "--listen", "127.0.0.1:0", "--json"];
        all.extend(arguments);
        let mut child = unanimity(&all).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, url: told["url"].as_str().expect("a url").to_owned() }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status;
            }
            assert!(started.elapsed() < limit, "it did not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn path(directory: &Path) -> &str {
    directory.to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_it_in_good_order_and_the_log_lasts() {
    let data = directory();
    let http = http_client();
    let mut running = Running::dev(&["--data-dir", path(data.path())]);
    let begin = http
        .post(format!("{}/v1/transactions", running.url))
        .json(&json!({ "mode": "tcc", "name": "lasts" }));
    let begun: Value = begin.send().await.expect("an answer").json().await.expect("JSON");
    let xid = begun["xid"].as_str().expect("an xid").to_owned();
    // A call in hand when the signal comes is answered.
    let poll = http.get(format!("{}/v1/transactions/{xid}?wait=decided&wait_ms=20000", running.url));
    let poll = tokio::spawn(async move { poll.send().await.expect("an answer").status().as_u16() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(15)).success());
    assert_eq!(poll.await.expect("no panic"), 200);

    // The log is whole and tells what happened.
    let data = path(data.path());
    let verified = run(&["log", "verify", "--data-dir", data, "--json"]).await;
    assert_eq!(
        (verified.status.code(), json_of(&verified)["ok"].as_bool()),
        (Some(0), Some(true)),
        "{verified:?}"
    );
    let text = stdout(&run(&["log", "verify", "--data-dir", data]).await);
    assert!(text.contains("PARTITION") && text.contains("whole"), "{text}");
    let dumped = run(&["log", "dump", "--data-dir", data, "--xid", &xid]).await;
    assert!(stdout(&dumped).contains(&format!("{xid} begun mode=tcc name=lasts")), "{dumped:?}");
    let lines = stdout(&run(&["log", "dump", "--data-dir", data, "--json"]).await);
    let kinds: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["kind"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(kinds.first(), Some(&Some("birth".to_owned())));
    assert_eq!(kinds.last(), Some(&Some("closing".to_owned())), "{kinds:?}");

    // SIGINT does the same, and what was begun is still there.
    let mut running = Running::dev(&["--data-dir", data]);
    let shown = run(&["tx", "show", &xid, "--addr", &running.url, "--json"]).await;
    assert_eq!(json_of(&shown)["name"], "lasts");
    running.signal("INT");
    assert!(running.wait(Duration::from_secs(15)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_says_that_a_temporary_log_forgets() {
    let mut child =
        unanimity(&["dev", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    while !text.contains("Ctrl-C") {
        assert!(lines.read_line(&mut text).expect("a line") > 0, "{text}");
    }
    let directory = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("log "))
        .expect("the directory")
        .trim()
        .to_owned();
    assert!(Path::new(&directory).exists());
    let mut running = Running { child, url: String::new() };
    running.signal("TERM");
    assert!(running.wait(Duration::from_secs(15)).success());
    assert!(text.contains("Temporary") && text.contains("--data-dir"), "{text}");
    assert!(text.contains("curl --json"), "{text}");
    assert!(!Path::new(&directory).exists(), "it is deleted at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_listed_shown_and_acted_on() {
    let fixture = Fixture::start().await;
    let addr = fixture.url("");
    let addr = addr.as_str();
    let empty = run(&["tx", "list", "--addr", addr]).await;
    assert_eq!((empty.status.code(), stdout(&empty).as_str()), (Some(0), "No transactions.\n"));

    let stock = Callback::start().await;
    stock.answer_with(http::StatusCode::SERVICE_UNAVAILABLE);
    let xid = fixture.begin().await;
    fixture.branch(&xid, "stock", &stock).await;
    fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    let listed = stdout(&run(&["tx", "list", "--addr", addr, "--status", "committing"]).await);
    assert!(listed.starts_with("XID ") && listed.contains(&xid) && listed.contains("committing"), "{listed}");
    let listed = json_of(&run(&["tx", "list", "--addr", addr, "--json", "--limit", "1"]).await);
    assert_eq!(
        (listed["transactions"][0]["xid"].as_str(), &listed["next_cursor"]),
        (Some(xid.as_str()), &Value::Null)
    );

    let shown = stdout(&run(&["tx", "show", &xid, "--addr", addr]).await);
    for word in ["status    committing", "BRANCH  KEY", "stock", "confirming", "EVENT", "begun", "decided"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    let retried = run(&["tx", "retry", &xid, "--addr", addr, "--reason", "look", "--json"]).await;
    assert_eq!(json_of(&retried)["status"], "committing");
    let resolve = [
        "tx",
        "resolve",
        &xid,
        "1",
        "--as",
        "confirmed",
        "--reason",
        "by hand",
        "--operator",
        "ada",
        "--addr",
        addr,
    ];
    let resolved = run(&resolve).await;
    assert_eq!(stdout(&resolved), format!("{xid} is committed\n"));
    let shown = stdout(&run(&["tx", "show", &xid, "--addr", addr]).await);
    assert!(shown.contains("heuristic_confirmed") && shown.contains("by ada: by hand"), "{shown}");

    // What cannot be is an error with its code, on stderr, with status 1.
    let refused = run(&["tx", "abort", &xid, "--addr", addr, "--reason", "late"]).await;
    assert_eq!((refused.status.code(), stdout(&refused).as_str()), (Some(1), ""));
    assert!(
        stderr(&refused).contains("already_decided") && stderr(&refused).contains("committed"),
        "{refused:?}"
    );
    let refused = run(&["tx", "abort", &xid, "--addr", addr, "--reason", "late", "--json"]).await;
    let error: Value = serde_json::from_slice(&refused.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "already_decided");

    let cluster = run(&["cluster", "--addr", addr]).await;
    assert_eq!(cluster.status.code(), Some(0));
    let shown = stdout(&cluster);
    assert!(
        ["NODE", "PARTITION  STATE", "HISTORY LAG", "running", "alive"]
            .iter()
            .all(|word| shown.contains(word)),
        "{shown}"
    );
    let cluster = json_of(&run(&["cluster", "--addr", addr, "--json"]).await);
    assert_eq!(cluster["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(cluster["nodes"].as_array().map(Vec::len), Some(1));
    // The only node keeps what it has; drained it is all the same.
    let name = cluster["node"].as_str().expect("a name");
    let drained =
        json_of(&run(&["cluster", "drain", name, "--reason", "test", "--addr", addr, "--json"]).await);
    assert_eq!((drained["draining"].as_bool(), drained["partitions"].as_u64()), (Some(true), Some(2)));
    let undrained = run(&["cluster", "undrain", name, "--addr", addr]).await;
    assert_eq!(undrained.status.code(), Some(0), "{undrained:?}");
    let unknown = run(&["cluster", "drain", "nobody", "--addr", addr]).await;
    assert!(stderr(&unknown).contains("knows no node") && unknown.status.code() == Some(1), "{unknown:?}");
    let loss = run(&["log", "accept-loss", "0", "--addr", addr, "--reason", "none"]).await;
    assert!(stderr(&loss).contains("illegal_transition"), "{loss:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_aborts_with_name_and_reason() {
    let fixture = Fixture::start().await;
    let addr = fixture.url("");
    let abort = async |xid: &str, more: &[&str]| {
        let mut arguments = vec!["tx", "abort", xid, "--addr", &addr, "--reason", "the shop is closed"];
        arguments.extend(more);
        run(&arguments).await
    };
    let xid = fixture.begin().await;
    let aborted = abort(&xid, &["--operator", "ada", "--json"]).await;
    assert_eq!(json_of(&aborted)["abort_reason"], "operator", "{aborted:?}");
    let shown = stdout(&run(&["tx", "show", &xid, "--addr", &addr]).await);
    assert!(shown.contains("abort (operator) by ada: the shop is closed"), "{shown}");
    // Again: answered as the first time.
    let again = abort(&xid, &["--operator", "bob"]).await;
    assert_eq!(stdout(&again), format!("{xid} is aborted (operator)\n"));

    // Who it is, is found out; by the system if the environment does not say it.
    for (user, who) in [(Some("grace"), "grace".to_owned()), (None, login())] {
        let xid = fixture.begin().await;
        let mut command = unanimity(&["tx", "abort", &xid, "--addr", &addr, "--reason", "why not"]);
        command.env_remove("USER").env_remove("LOGNAME").env_remove("USERNAME");
        if let Some(user) = user {
            command.env("USER", user);
        }
        let output = tokio::process::Command::from(command).output().await.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let shown = stdout(&run(&["tx", "show", &xid, "--addr", &addr]).await);
        assert!(shown.contains(&format!("by {who}: why not")), "{shown}");
    }

    // What nobody knows is not aborted by a slip: it would leave a record.
    let unknown = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let refused = abort(unknown, &[]).await;
    assert_eq!((refused.status.code(), stdout(&refused).as_str()), (Some(1), ""));
    assert!(
        stderr(&refused).contains("--unknown") && stderr(&refused).contains("nothing was done"),
        "{refused:?}"
    );
    let refused = abort(unknown, &["--json"]).await;
    let error: Value = serde_json::from_slice(&refused.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "transaction_not_found");
    assert_eq!(fixture.get(&format!("/v1/transactions/{unknown}")).await.status, 404);
    let settled = abort(unknown, &["--unknown"]).await;
    assert_eq!(stdout(&settled), format!("{unknown} is aborted (presumed)\n"));
    let late = fixture.post("/v1/transactions", &json!({ "mode": "tcc", "xid": unknown })).await;
    assert_eq!(late.code(), "already_decided");
}

fn login() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    stdout(&output).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_log_is_read_beside_its_coordinator() {
    let data = directory();
    let data = path(data.path());
    let http = http_client();
    let mut running = Running::dev(&["--data-dir", data]);
    let begin = async || {
        let request = http.post(format!("{}/v1/transactions", running.url)).json(&json!({ "mode": "tcc" }));
        let begun: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        begun["xid"].as_str().unwrap_or_else(|| panic!("{begun}")).to_owned()
    };
    let xid = begin().await;
    for command in [&["log", "verify"][..], &["log", "dump"], &["check"]] {
        let output = run(&[command, &["--data-dir", data]].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stdout(&output).contains(&xid) == (command == ["log", "dump"]), "{output:?}");
    }
    // It goes on, and the next look sees it.
    let later = begin().await;
    assert!(stdout(&run(&["log", "dump", "--data-dir", data, "--xid", &later]).await).contains("begun"));

    // After a crash too, and not a byte is changed: not even the write-ahead log is merged.
    running.signal("KILL");
    running.wait(Duration::from_secs(15));
    let bytes =
        || ["unanimity.db", "unanimity.db-wal"].map(|file| std::fs::read(Path::new(data).join(file)).ok());
    let before = bytes();
    assert!(before.iter().all(Option::is_some));
    for command in [&["log", "verify"][..], &["log", "dump"], &["check"]] {
        let output = run(&[command, &["--data-dir", data]].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert!(bytes() == before, "a command that only reads wrote");
    let running = Running::dev(&["--data-dir", data]);
    let shown = run(&["tx", "show", &later, "--addr", &running.url]).await;
    assert!(shown.status.success(), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_wrongly_is_status_2() {
    for arguments in [
        &["frobnicate"][..],
        &["tx", "show", "not-an-xid"],
        &["tx", "list", "--limit", "501"],
        &["tx", "list", "--older-than", "soon"],
        &["tx", "retry", "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f"],
        &["tx", "abort", "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f"],
        &["serve"],
        &["check"],
        &["serve", "--database-url", "mysql://h/d"],
        &["serve", "--config", "/does/not/exist.toml"],
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{arguments:?}: {output:?}");
    }
    let data = directory();
    let file = data.path().join("unanimity.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\n[limits]\nin_flite_max = 3\n").expect("written");
    let output = run(&["check", "--config", path(&file)]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("in_flite_max") && stderr(&output).contains("unanimity.toml:3"),
        "{output:?}"
    );
    let mut command = unanimity(&["check"]);
    let output = command.env("UNANIMITY_LISTNE", "x").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UNANIMITY_LISTNE"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_cannot_be_used_are_told() {
    // Unreachable: nobody listens on port 1. The password is not shown.
    for command in ["serve", "check", "migrate"] {
        let url = "postgres://unanimity:s3cret@127.0.0.1:1/unanimity";
        let output = run(&[command, "--database-url", url]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = stderr(&output);
        assert!(error.contains("127.0.0.1:1") && !error.contains("s3cret"), "{error}");
    }
    // Not migrated: says what to do, and makes nothing.
    let data = directory();
    for command in [&["serve"][..], &["check"], &["log", "verify"], &["log", "dump"]] {
        let mut arguments = command.to_vec();
        arguments.extend(["--data-dir", path(data.path())]);
        let output = run(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains("unanimity migrate"), "{output:?}");
    }
    assert_eq!(std::fs::read_dir(data.path()).expect("the directory").count(), 0);

    let first = json_of(&run(&["migrate", "--data-dir", path(data.path()), "--json"]).await);
    assert_eq!((first["born"].as_bool(), first["partitions"].as_u64()), (Some(true), Some(1)));
    let second = json_of(&run(&["migrate", "--data-dir", path(data.path()), "--json"]).await);
    assert_eq!((second["born"].as_bool(), &second["log_id"]), (Some(false), &first["log_id"]));
    let checked = run(&["check", "--data-dir", path(data.path()), "--json"]).await;
    assert_eq!(
        (checked.status.code(), json_of(&checked)["ok"].as_bool()),
        (Some(0), Some(true)),
        "{checked:?}"
    );

    // In use: a second coordinator on the same file.
    let running = Running::dev(&["--data-dir", path(data.path())]);
    let output = run(&["serve", "--data-dir", path(data.path()), "--listen", "127.0.0.1:0"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // The port is taken.
    let other = directory();
    let address = running.url.trim_start_matches("http://");
    let output = run(&["dev", "--data-dir", path(other.path()), "--listen", address]).await;
    assert!(output.status.code() == Some(1) && stderr(&output).contains("cannot listen on"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_with_what_to_do() {
    let xid = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    for command in [
        &["tx", "list"][..],
        &["tx", "show", xid],
        &["tx", "retry", xid, "--reason", "r"],
        &["tx", "abort", xid, "--reason", "r"],
        &["tx", "resolve", xid, "1", "--as", "confirmed", "--reason", "r"],
        &["cluster"],
        &["cluster", "undrain", "a"],
        &["log", "accept-loss", "0", "--reason", "r"],
    ] {
        // Said by flag, and by variable.
        let by_flag = run(&[command, &["--addr", "http://127.0.0.1:1"]].concat()).await;
        let mut by_variable = unanimity(command);
        by_variable.env("UNANIMITY_ADDR", "127.0.0.1:1");
        let by_variable = by_variable.output().expect("it runs");
        for output in [by_flag, by_variable] {
            assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{output:?}");
            for word in ["127.0.0.1:1", "refused", "unanimity dev", "--addr", "UNANIMITY_ADDR"] {
                assert!(stderr(&output).contains(word), "{word}: {output:?}");
            }
        }
        let output = run(&[command, &["--addr", "http://127.0.0.1:1", "--json"]].concat()).await;
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("--addr")), "{error}");
        let output = run(&[command, &["--addr", "no url"]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    for arguments in
        [&["--help"][..], &["dev", "--help"], &["tx", "resolve", "--help"], &["log", "dump", "--help"]]
    {
        let help = run(arguments).await;
        assert!(help.status.success() && stdout(&help).contains("Example"), "{arguments:?}: {help:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bench_measures_with_processes_of_its_own() {
    let running = Running::dev(&[]);
    let cpu = format!("store={}", running.child.id());
    let line =
        ["bench", "--coordinator", &running.url, "--rate", "50", "--warm-up", "0.2", "--duration", "0.5"];
    let flags = ["--drain", "50", "--generators", "2", "--participants", "http", "--cpu", &cpu, "--json"];
    let measured = run(&[&line[..], &flags[..]].concat()).await;
    assert!(measured.status.success(), "{measured:?}");
    let report = json_of(&measured);
    assert_eq!(
        (report["started"].as_u64(), report["committed"].as_u64()),
        (Some(36), Some(36)),
        "{report:#}"
    );
    let times = &report["cpu_us_per_transaction"];
    for process in ["generator", "participants", "store"] {
        assert_eq!(times[process].is_number(), cfg!(target_os = "linux"), "{process}: {report:#}");
    }
    let people = run(&["bench", "--coordinator", &running.url, "--duration", "0.2", "--warm-up", "0"]).await;
    assert!(people.status.success() && stdout(&people).contains("latency ms"), "{people:?}");
    let wrong = run(&["bench", "--branches", "65"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("--branches 65: it is 1 to 64"), "{wrong:?}");
}
