//! A process that can be killed, frozen, stopped and started again.
//!
//! Signals go to the process that this struct started and has not collected yet, so its id cannot belong to another.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use unanimity_test_databases::system::signal;

use crate::output::{Scratch, tail};
use crate::wait::until;

/// What a child gets of our own environment. The rest could change what it does.
const INHERITED: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];

/// A process and how to start it. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes a process that writes its output to `NAME.log`.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            log: scratch.path().join(format!("{name}.log")),
            child: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets a variable for its next start.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Takes a variable away from its next start.
    pub fn unset(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, or starts it again; its output goes on in the same file.
    ///
    /// # Errors
    /// It runs already, or the system does not let us.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Held by us: the services stop when its other end goes, so that they do not outlive a killed test.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {} ({})", self.name, self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The process's id while it runs, or has ended and was not collected.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, in the middle of whatever it is doing.
    ///
    /// # Errors
    /// It did not run, or had ended by itself, which a test must know.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} had ended before it was killed: {status}\n{}", self.name, self.tail());
        }
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: asks it to stop.
    ///
    /// # Errors
    /// It does not run.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// SIGSTOP: freezes it.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT: lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn unpause(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on beyond `limit`.
    pub async fn exit(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let status = until(&what, limit, async || self.ended()?.context("it still runs")).await?;
        self.child = None;
        Ok(status)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// It was not started.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        Ok(child.try_wait()?)
    }

    /// All that it wrote so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// The end of what it wrote.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    /// Where its output is.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        signal(name, &[child.id()])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(scratch: &Scratch, script: &str) -> Process {
        Process::new(scratch, "shell", "/bin/sh".into()).argument("-c").argument(script)
    }

    #[tokio::test]
    async fn dies_comes_back_and_ends() {
        let scratch = Scratch::new("process").unwrap();
        let mut process = shell(&scratch, "echo $WORD; exec sleep 100").variable("WORD", "hello");
        assert!(process.kill().is_err(), "it does not run yet");
        process.start().unwrap();
        assert!(process.start().is_err(), "twice");
        process.kill().unwrap();
        process.start().unwrap();
        assert!(process.exit(Duration::from_millis(50)).await.is_err());
        process.terminate().unwrap();
        assert!(!process.exit(Duration::from_secs(10)).await.unwrap().success());

        let mut process = shell(&scratch, "exit 3");
        process.start().unwrap();
        assert_eq!(process.exit(Duration::from_secs(10)).await.unwrap().code(), Some(3));
        assert!(!process.tail().contains("sleep"));
    }

    #[tokio::test]
    async fn an_end_by_itself_is_no_kill() {
        let scratch = Scratch::new("process").unwrap();
        let mut process = shell(&scratch, "echo last words");
        process.start().unwrap();
        until("the end", Duration::from_secs(10), async || process.ended()?.context("not yet"))
            .await
            .unwrap();
        let error = process.kill().unwrap_err().to_string();
        assert!(error.contains("last words"), "{error}");
    }
}
