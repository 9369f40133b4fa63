//! Whole runs against a coordinator on the memory log, its workers as tasks: every mode, every way to the
//! participants, participants with a database.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::Value;
use unanimity_bench::{Error, Launch, Options, Report, run};
use unanimity_coordinator::Node;
use unanimity_coordinator::delivery::AllowList;
use unanimity_coordinator::log::{MemoryLog, TransactionLog};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

async fn coordinator() -> Node {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(1));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let allow = AllowList::parse(&["loopback".to_owned()]).expect("a pattern");
    let node = Node::builder().log(log).listen(listen).allow_callbacks(allow).start().await.expect("started");
    node.ready(Duration::from_secs(10)).await.expect("ready");
    node
}

fn options(url: &str, line: &str) -> Options {
    let line = format!("bench --coordinator {url} --warm-up 0 --duration 0.5 --drain 60 {line}");
    Line::try_parse_from(line.split_whitespace()).expect("options").options
}

/// Runs it against a coordinator of its own, and checks what holds for every run.
async fn bench(line: &str) -> Report {
    let node = coordinator().await;
    let url = node.url().expect("it listens");
    let report = run(&options(&url, line), &Launch::Tasks).await.expect(line);
    assert!(report.started >= 20, "{line}: {report:?}");
    assert_eq!((report.failed, report.unfinished, report.left_open), (0, 0, 0), "{line}: {report:?}");
    assert_eq!(report.committed + report.aborted, report.started, "{line}: {report:?}");
    let latency = report.latency_us;
    let (decided, finished) = (latency.decided.expect("decided"), latency.finished.expect("finished"));
    assert!(decided.p50 <= decided.p99 && decided.p99 <= decided.max, "{line}: {decided:?}");
    assert!(finished.p50 <= finished.max, "{line}: {finished:?}");
    node.shutdown().await;
    report
}

// 20 %: spread over every run of ten.
const LOAD: &str = "--rate 100 --aborts 20";

fn is_two_of_ten(report: &Report) {
    assert_eq!(report.aborted * 5, report.started, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcc_with_participants_of_every_reach() {
    for reach in ["attached", "grpc", "http"] {
        is_two_of_ten(&bench(&format!("{LOAD} --mode tcc --branches 3 --participants {reach}")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_with_participants_of_every_reach() {
    for reach in ["attached", "grpc", "http"] {
        is_two_of_ten(&bench(&format!("{LOAD} --mode saga --participants {reach}")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phase_and_messages() {
    is_two_of_ten(&bench(&format!("{LOAD} --mode two-phase --sequential")).await);
    // No room for the stamp in the payload: the name has it.
    is_two_of_ten(&bench(&format!("{LOAD} --mode message --payload 0 --branches 1")).await);
    is_two_of_ten(&bench(&format!("{LOAD} --mode message --participants http --payload 2")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burden_stays_pending_beside_the_load() {
    let node = coordinator().await;
    let url = node.url().expect("it listens");
    let options = options(&url, "--rate 100 --stuck 20 --slow 5");
    let report = run(&options, &Launch::Tasks).await.expect("a run");
    assert_eq!((report.failed, report.unfinished, report.left_open), (0, 0, 0), "{report:?}");
    assert!(report.committed >= 20, "{report:?}");
    assert!(report.table().contains("beside 20 stuck and 5 at a slow participant"), "{}", report.table());
    // The slow one may have answered by now on a slow machine; who is away never does.
    let open: u64 = node.coordinator().info().states.iter().map(|state| state.open).sum();
    assert!((20..=25).contains(&open), "{open}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_with_a_database_have_its_effects_once() {
    for mode in ["tcc", "saga", "message"] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("work.db");
        let path = path.to_str().expect("text");
        let reach = if mode == "saga" { "grpc" } else { "attached" };
        let line = format!(
            "--rate 40 --aborts 20 --mode {mode} --participants {reach} --services 1 --database sqlite:{path}"
        );
        let report = bench(&line).await;
        is_two_of_ten(&report);
        let pool = sqlx::SqlitePool::connect(path).await.expect("the file");
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimity_bench_work")
            .fetch_one(&pool)
            .await
            .expect("a count");
        // TCC takes its rows back; steps that stay and deliveries leave two each.
        let left = if mode == "tcc" { 0 } else { 2 * report.committed };
        assert_eq!(u64::try_from(rows).expect("a count"), left, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_of_several_generators_gives_the_json_that_was_promised() {
    let report = bench("--concurrency 5 --generators 2 --connections 2").await;
    let json = serde_json::to_value(&report).expect("JSON");
    for path in [
        "/config/mode",
        "/config/database",
        "/driver",
        "/started",
        "/committed",
        "/aborted",
        "/unfinished",
        "/failed",
        "/seconds",
        "/per_second/decided",
        "/per_second/finished",
        "/latency_us/decided/p50",
        "/latency_us/decided/p90",
        "/latency_us/decided/p99",
        "/latency_us/decided/p99_9",
        "/latency_us/decided/max",
        "/latency_us/finished/p99_9",
        "/per_transaction/blocks",
        "/per_transaction/log_bytes",
        "/per_transaction/history_rows",
        "/per_transaction/history_bytes",
        "/per_transaction/waited_writes_committed",
    ] {
        assert!(json.pointer(path).is_some_and(|value| !value.is_null()), "{path}: {json:#}");
    }
    // Tasks have no time of their own; nobody named a database; nothing aborted.
    for path in [
        "/cpu_us_per_transaction/generator",
        "/cpu_us_per_transaction/participants",
        "/cpu_us_per_transaction/database",
        "/per_transaction/waited_writes_aborted",
    ] {
        assert_eq!(json.pointer(path), Some(&Value::Null), "{path}: {json:#}");
    }
    let table = report.table();
    for word in ["tcc by unanimity", "write nothing", "per second", "decided", "CPU µs each", "waited writes"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said() {
    // Nobody listens at port 1.
    let error = run(&options("http://127.0.0.1:1", ""), &Launch::Tasks).await.expect_err("nobody there");
    assert!(matches!(&error, Error::Coordinator { .. }), "{error}");
    let error =
        run(&options("http://127.0.0.1:1", "--branches 65"), &Launch::Tasks).await.expect_err("too many");
    assert!(matches!(&error, Error::Options(_)), "{error}");
    // A program that is no worker.
    let node = coordinator().await;
    let launch = Launch::Processes { program: "/bin/true".into(), arguments: Vec::new() };
    let error = run(&options(&node.url().expect("it listens"), ""), &launch).await.expect_err("no worker");
    assert!(matches!(&error, Error::Worker { .. }), "{error}");
    node.shutdown().await;
}
