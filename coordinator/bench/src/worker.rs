//! The processes of a run: one with the participants, one or several that generate load.
//!
//! The first process starts them as itself with another command, tells them what to do over their stdin
//! and hears of it over their stdout, a line of JSON each. When the pipe closes a worker ends, so none is
//! left behind by a first process that was killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Lines,
};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::driver::AnyDriver;
use crate::error::Error;
use crate::measure::{Generated, Window};
use crate::options::Options;
use crate::pace::{self, Pace};
use crate::participants::{Participants, Tallied};
use crate::places::Places;

/// How the workers run.
#[derive(Debug, Clone)]
pub enum Launch {
    /// As processes: this program with these arguments, which must call [`work`](crate::work).
    Processes {
        /// The program.
        program: PathBuf,
        /// What makes it a worker.
        arguments: Vec<String>,
    },
    /// As tasks of this process: for programs that embed the bench. CPU time is not told apart then.
    Tasks,
}

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Be the participants.
    Participate(Box<Options>),
    /// Generate this load, when the window is known.
    Generate(Box<Options>, Places),
    Window(Window),
    /// How many transactions are finished?
    Finished,
    /// What came of it?
    Tally,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Participating(Places),
    Ready,
    Finished(u64),
    Tallied(Box<Tallied>, Vec<String>),
    Generated(Box<Generated>),
    Failed(String),
}

/// A worker, seen from the first process. Dropped, it ends.
pub(crate) struct Worker {
    name: &'static str,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: Lines<Box<dyn AsyncBufRead + Send + Unpin>>,
    running: Running,
}

enum Running {
    Process(Box<Child>),
    Task(JoinHandle<()>),
}

impl Drop for Worker {
    fn drop(&mut self) {
        match &mut self.running {
            // `kill_on_drop` does it, should it not have ended with its stdin.
            Running::Process(_) => {}
            Running::Task(task) => task.abort(),
        }
    }
}

impl Worker {
    fn launch(name: &'static str, launch: &Launch) -> Result<Self, Error> {
        let missing =
            |what: &str| Error::Worker { process: name.to_owned(), why: format!("it has no {what}") };
        match launch {
            Launch::Processes { program, arguments } => {
                let mut child = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(|error| Error::Worker { process: name.to_owned(), why: error.to_string() })?;
                let input = child.stdin.take().ok_or_else(|| missing("stdin"))?;
                let output = child.stdout.take().ok_or_else(|| missing("stdout"))?;
                Ok(Self::new(name, input, output, Running::Process(Box::new(child))))
            }
            Launch::Tasks => {
                /// A line with a histogram fits.
                const PIPE_BYTES: usize = 1 << 16;
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                let (input, output) = tokio::io::split(theirs);
                let task = tokio::spawn(async move {
                    // Its error went to us as a line.
                    let _ = serve(input, output).await;
                });
                let (output, input) = tokio::io::split(ours);
                Ok(Self::new(name, input, output, Running::Task(task)))
            }
        }
    }

    fn new(
        name: &'static str,
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        running: Running,
    ) -> Self {
        let output: Box<dyn AsyncBufRead + Send + Unpin> = Box::new(BufReader::new(output));
        Self { name, input: Box::new(input), output: output.lines(), running }
    }

    /// Its process id, if it is a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.running {
            Running::Process(child) => child.id(),
            Running::Task(_) => None,
        }
    }

    /// Starts the participants.
    pub(crate) async fn participants(launch: &Launch, options: &Options) -> Result<(Self, Places), Error> {
        let mut worker = Self::launch("the participants", launch)?;
        worker.send(&Order::Participate(Box::new(options.clone()))).await?;
        match worker.receive().await? {
            Said::Participating(places) => Ok((worker, places)),
            other => Err(worker.astray(&other)),
        }
    }

    /// Starts a generator, which then waits for the window.
    pub(crate) async fn generator(
        launch: &Launch,
        options: &Options,
        places: &Places,
    ) -> Result<Self, Error> {
        let mut worker = Self::launch("a generator", launch)?;
        worker.send(&Order::Generate(Box::new(options.clone()), places.clone())).await?;
        match worker.receive().await? {
            Said::Ready => Ok(worker),
            other => Err(worker.astray(&other)),
        }
    }

    /// Tells when what is to happen.
    pub(crate) async fn set_window(&mut self, window: Window) -> Result<(), Error> {
        self.send(&Order::Window(window)).await
    }

    /// Waits for a generator's end.
    pub(crate) async fn generated(&mut self) -> Result<Generated, Error> {
        match self.receive().await? {
            Said::Generated(generated) => Ok(*generated),
            other => Err(self.astray(&other)),
        }
    }

    /// How many transactions the participants saw finished.
    pub(crate) async fn finished(&mut self) -> Result<u64, Error> {
        self.send(&Order::Finished).await?;
        match self.receive().await? {
            Said::Finished(finished) => Ok(finished),
            other => Err(self.astray(&other)),
        }
    }

    /// What the participants counted, and what went wrong.
    pub(crate) async fn tallied(&mut self) -> Result<(Tallied, Vec<String>), Error> {
        self.send(&Order::Tally).await?;
        match self.receive().await? {
            Said::Tallied(tallied, errors) => Ok((*tallied, errors)),
            other => Err(self.astray(&other)),
        }
    }

    async fn send(&mut self, order: &Order) -> Result<(), Error> {
        let written = write_line(&mut self.input, order).await;
        written.map_err(|error| self.failed(error))
    }

    async fn receive(&mut self) -> Result<Said, Error> {
        let line = self.output.next_line().await.map_err(|error| self.failed(error))?;
        let line = line.ok_or_else(|| self.failed("it ended"))?;
        match serde_json::from_str(&line) {
            Ok(Said::Failed(why)) => Err(self.failed(why)),
            Ok(said) => Ok(said),
            Err(error) => {
                Err(self.failed(format!("it says {:?}: {error}", line.chars().take(128).collect::<String>())))
            }
        }
    }

    fn astray(&self, said: &Said) -> Error {
        self.failed(format!("it says {said:?} out of turn").chars().take(256).collect::<String>())
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::Worker { process: self.name.to_owned(), why: why.to_string() }
    }
}

async fn write_line(output: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line).await?;
    output.flush().await
}

/// What a worker holds.
enum Job {
    Participants(Participants),
    Generator(Arc<AnyDriver>, Box<Options>),
}

/// Is a worker until the other side closes the pipe.
pub(crate) async fn serve(
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut orders = BufReader::new(input).lines();
    let mut job = None;
    while let Some(line) = orders.next_line().await? {
        let order = serde_json::from_str(&line)?;
        // Load ends with the pipe, too: nobody would hear of it.
        let said = tokio::select! {
            said = obey(order, &mut job) => said,
            _ = orders.next_line() => return Ok(()),
        };
        if let Some(said) = said {
            write_line(&mut output, &said).await?;
        }
    }
    Ok(())
}

async fn obey(order: Order, job: &mut Option<Job>) -> Option<Said> {
    match (order, &*job) {
        (Order::Participate(options), _) => Some(match Participants::start(&options).await {
            Ok(participants) => {
                let places = participants.places.clone();
                *job = Some(Job::Participants(participants));
                Said::Participating(places)
            }
            Err(error) => Said::Failed(error.to_string()),
        }),
        (Order::Generate(options, places), _) => {
            Some(match AnyDriver::new((*options).clone(), places).await {
                Ok(driver) => {
                    *job = Some(Job::Generator(Arc::new(driver), options));
                    Said::Ready
                }
                Err(error) => Said::Failed(error.to_string()),
            })
        }
        (Order::Window(window), Some(Job::Participants(participants))) => {
            if let Some(tally) = participants.tally() {
                tally.set_window(window);
            }
            None
        }
        (Order::Window(window), Some(Job::Generator(driver, options))) => {
            let pace = match options.rate {
                Some(rate) => Pace::Open { rate },
                None => Pace::Closed { concurrency: options.concurrency },
            };
            let load = pace::run(Arc::clone(driver), pace, options.aborts, window, options.drain_for());
            Some(Said::Generated(Box::new(load.await)))
        }
        (Order::Finished, Some(Job::Participants(participants))) => {
            Some(Said::Finished(participants.tally().map_or(0, |tally| tally.finished())))
        }
        (Order::Tally, Some(Job::Participants(participants))) => {
            let tallied = participants.tally().map(|tally| tally.result()).unwrap_or_default();
            Some(Said::Tallied(Box::new(tallied), participants.errors()))
        }
        _ => Some(Said::Failed("it was told this out of turn".to_owned())),
    }
}
