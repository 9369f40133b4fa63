//! docs/http-api.md, run as it stands: its blocks in order, against the real binary.
//!
//! A `python` block is saved under the name that its first line calls it by. In a `console` block, a line that begins with `$ ` is a
//! command for one bash that lives through the whole text, and the lines after it are its output. What differs
//! between two runs (ids, ports, times, places in the log, the number of attempts) is not compared.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use unanimity_types::Mode;
use uuid::Uuid;

/// All of it takes some twenty seconds; a machine that is busy may take longer.
const WALK_MAX: Duration = Duration::from_secs(150);
/// What is shown only after a while (a participant's line, a call for attention) is looked for so long.
const APPEARS_MAX: Duration = Duration::from_secs(40);
/// Before another look.
const PAUSE: Duration = Duration::from_millis(200);
const OUTPUT: &str = "participants.out";

#[derive(Debug)]
enum Step {
    Save {
        name: String,
        text: String,
    },
    Run {
        command: String,
        output: String,
    },
    /// What the participants have printed so far.
    Printed(String),
}

/// The blocks of a page as steps.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "python" => {
                // `python3 participant.py PORT …` in a line of its doc string.
                let words = block.iter().flat_map(|line| line.split_whitespace());
                let name = words.clone().zip(words.skip(1)).find(|(word, _)| word.ends_with("python3"));
                let name = name.expect("the block says how it is called").1.to_owned();
                steps.push(Step::Save { name, text: block.join("\n") });
            }
            "text" => steps.push(Step::Printed(block.join("\n"))),
            "console" => console(&block, &mut steps),
            _ => {}
        }
    }
    steps
}

fn console(block: &[&str], steps: &mut Vec<Step>) {
    let mut lines = block.iter().peekable();
    while let Some(line) = lines.next() {
        let first = line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}"));
        let mut command = first.to_owned();
        // An open quote goes on in the next line.
        while command.matches('\'').count() % 2 == 1 {
            command.push('\n');
            command.push_str(lines.next().expect("the quote ends"));
        }
        let mut output = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
            output.push(*line);
        }
        steps.push(Step::Run { command, output: output.join("\n") });
    }
}

/// What is the same in every run.
fn lasting(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            blur(&mut value);
            value.to_string()
        }
        Err(_) => words(text),
    }
}

fn blur(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    // The words for people depend on where the answer was found: memory or history.
                    "position" | "attempts" | "detail" => *field = Value::Null,
                    _ => blur(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blur),
        Value::String(text) => *text = words(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn words(text: &str) -> String {
    let is_span = |word: &str| {
        let digits = word.trim_end_matches(['s', 'm', 'h', 'd']);
        digits.len() < word.len() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let kept = text.split_whitespace().filter(|word| !is_span(word)).map(|word| match word {
        _ if Uuid::try_parse(word).is_ok() => "UUID",
        _ if word.contains("unanimity-dev-") => "DIRECTORY",
        "now" => "ago",
        other => other,
    });
    kept.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_differs_between_runs_is_not_compared() {
    let one = r#"{"xid":"52ad19fd-7435-4047-80df-70ce87b436c4","status":"active","position":{"seq":2}}"#;
    let two = r#"{"xid":"0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f","status":"active","position":{"seq":7}}"#;
    assert_eq!(lasting(one), lasting(two));
    assert_ne!(lasting(one), lasting(&two.replace("active", "aborted")));
    assert_eq!(lasting("x  2s ago"), lasting("x now"));
    assert_ne!(lasting("200"), lasting("409"));
}

/// A bash that is fed one command after the other. Its whole process group ends with it.
struct Shell {
    child: Child,
    commands: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn start(directory: &Path, address: &str) -> Self {
        let mut command = command("bash", directory, address);
        command.args(["--noprofile", "--norc"]).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("bash");
        let commands = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, commands, output }
    }

    /// Runs a command to its end; what it printed.
    async fn run(&mut self, command: &str) -> String {
        let text = format!("{command}\nprintf '\\n@@done@@\\n'\n");
        self.commands.write_all(text.as_bytes()).await.expect("bash reads");
        let mut lines = Vec::new();
        loop {
            match self.output.next_line().await.expect("text") {
                Some(line) if line == "@@done@@" => return lines.join("\n").trim().to_owned(),
                Some(line) => lines.push(line),
                None => panic!("bash ended in {command:?}"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let Some(group) = self.child.id() else { return };
        let kill = ["-KILL", "--", &format!("-{group}")];
        let _ = std::process::Command::new("kill").args(kill).stderr(Stdio::null()).status();
    }
}

/// A program that finds our binary first, and the coordinator at this address.
fn command(program: &str, directory: &Path, address: &str) -> Command {
    let ours = Path::new(env!("CARGO_BIN_EXE_unanimity")).parent().expect("a directory").to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(ours).chain(std::env::split_paths(&others))).expect("a path");
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("UNANIMITY_")) {
        command.env_remove(variable);
    }
    command
        .env("PATH", path)
        .env("UNANIMITY_LISTEN", address)
        .env("UNANIMITY_ADDR", format!("http://{address}"))
        .current_dir(directory)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// `unanimity dev`, and what it said.
async fn coordinator(
    directory: &Path,
    address: &str,
    line: &str,
) -> (Child, Lines<BufReader<ChildStdout>>, String) {
    let mut words = line.split_whitespace();
    let mut command = command(words.next().expect("a program"), directory, address);
    let mut child = command.args(words).spawn().expect("unanimity");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.contains("Ctrl-C")) {
        let line = lines.next_line().await.expect("text");
        said.push(line.unwrap_or_else(|| panic!("it ended: {said:?}")));
    }
    (child, lines, said.join("\n"))
}

fn require_tools() {
    let is_there = |tool: &&str| {
        let places = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&places).any(|place| place.join(tool).is_file())
    };
    let missing: Vec<&str> =
        ["bash", "curl", "jq", "python3"].into_iter().filter(|tool| !is_there(tool)).collect();
    assert!(
        missing.is_empty(),
        "docs/http-api.md needs {missing:?}: apt-get install bash curl jq python3 (and curl 7.82 or later)"
    );
}

/// The page with free ports instead of its own.
fn page_with_free_ports() -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http-api.md");
    let mut page = std::fs::read_to_string(path).expect("the page");
    // All held until all are chosen, so that they differ.
    let held: Vec<_> =
        (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<u16> =
        held.iter().map(|listener| listener.local_addr().expect("an address").port()).collect();
    let known = ["7460", "9001", "9002", "9003"];
    // In two steps: a new port may contain an old one.
    for (at, port) in known.iter().enumerate() {
        assert!(page.contains(port), "{port} is not on the page");
        page = page.replace(port, &format!("@port{at}@"));
    }
    for (at, port) in ports.iter().enumerate() {
        page = page.replace(&format!("@port{at}@"), &port.to_string());
    }
    (page, format!("127.0.0.1:{}", ports[0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_of_the_http_page_runs_as_it_stands() {
    require_tools();
    tokio::time::timeout(WALK_MAX, walk()).await.expect("in time");
}

async fn walk() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let (page, address) = page_with_free_ports();
    let mut shell = Shell::start(directory, &address);
    // Held to the end: when they are dropped, the coordinator is.
    let mut dev = None;
    let mut xid = String::new();
    let mut commands = 0;
    let mut run = String::new();
    for step in steps(&page) {
        match step {
            Step::Save { name, text } => {
                std::fs::write(directory.join(name), text).expect("written");
            }
            Step::Printed(expected) => printed(directory, &expected).await,
            Step::Run { command, output } => {
                commands += 1;
                run.push_str(&command);
                let said = if command == "unanimity dev" {
                    let (child, lines, said) = coordinator(directory, &address, &command).await;
                    dev = Some((child, lines));
                    said
                } else if let Some(participant) = command.strip_suffix(" &") {
                    shell.run(&format!("{participant} >>{OUTPUT} 2>&1 &")).await;
                    listens(participant).await;
                    String::new()
                } else if command.strip_prefix("XID=").is_some_and(|text| Uuid::try_parse(text).is_ok()) {
                    shell.run(&format!("XID={xid}")).await
                } else if command.starts_with("unanimity ") {
                    until(&mut shell, &command, &output).await
                } else {
                    shell.run(&command).await
                };
                assert_eq!(lasting(&said), lasting(&output), "docs/http-api.md: {command}\nprinted\n{said}");
                if let Ok(Value::Object(fields)) = serde_json::from_str(&said)
                    && let Some(told) = fields.get("xid").and_then(Value::as_str)
                {
                    xid = told.to_owned();
                }
            }
        }
    }
    for mode in Mode::ALL {
        let begin = format!("\"mode\": \"{mode}\"");
        assert!(run.contains(&begin), "docs/http-api.md runs no transaction of mode {mode}");
    }
    assert!(commands >= 50 && dev.is_some(), "the page was not understood: {commands} commands");
}

/// Looks again until it shows what the page shows: some things take their time.
async fn until(shell: &mut Shell, command: &str, expected: &str) -> String {
    let end = tokio::time::Instant::now() + APPEARS_MAX;
    loop {
        let said = shell.run(command).await;
        if lasting(&said) == lasting(expected) || tokio::time::Instant::now() > end {
            return said;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the participants printed, in the page's order or another: they are two.
async fn printed(directory: &Path, expected: &str) {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let end = tokio::time::Instant::now() + APPEARS_MAX;
    loop {
        let text = std::fs::read_to_string(directory.join(OUTPUT)).unwrap_or_default();
        if sorted(&text) == sorted(expected) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "the participants printed\n{text}\ninstead of\n{expected}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// `python3 NAME.py PORT …` answers.
async fn listens(participant: &str) {
    let port = participant.split_whitespace().nth(2).expect("a port");
    let end = tokio::time::Instant::now() + APPEARS_MAX;
    while tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "{participant} does not listen");
        tokio::time::sleep(PAUSE).await;
    }
}
