//! A gate around a node's tasks: paused, none of them runs, and their timers fire late, as after SIGSTOP;
//! killed, none of them runs ever again, as after SIGKILL.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

thread_local! {
    /// Whose task is running.
    static CURRENT: RefCell<Option<Gate>> = const { RefCell::new(None) };
}

/// How many handles of tasks are kept before those that ended are let go of.
const HANDLES_KEPT: usize = 64;

/// A node's gate. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Mutex<State>>);

struct State {
    paused: bool,
    killed: bool,
    /// Tasks that wanted to run meanwhile.
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    /// What the node's wall clock shows, less what the runtime's clock shows, in milliseconds.
    wall_ms: u64,
    started: Instant,
}

impl Gate {
    /// An open gate of a node whose wall clock shows so many milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(wall_ms: u64) -> Self {
        let (waiting, tasks) = (Vec::new(), Vec::new());
        let started = Instant::now();
        Self(Arc::new(Mutex::new(State { paused: false, killed: false, waiting, tasks, wall_ms, started })))
    }

    /// Starts a task behind this gate.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let task = tokio::spawn(Gated { gate: self.clone(), future: Box::pin(future) });
        let mut state = self.state();
        if state.tasks.len() >= HANDLES_KEPT && state.tasks.len().is_power_of_two() {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task.abort_handle());
        if state.killed {
            task.abort();
        }
        drop(state);
        task
    }

    /// Does something as this node: tasks that it starts are the node's.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _inside = Inside::new(self);
        work()
    }

    /// Stops every task where it is.
    pub fn pause(&self) {
        self.state().paused = true;
    }

    /// Lets them go on.
    pub fn resume(&self) {
        let waiting = {
            let mut state = self.state();
            state.paused = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends every task where it is: what they hold is dropped, and nothing of them runs again.
    pub fn kill(&self) {
        let tasks = {
            let mut state = self.state();
            state.killed = true;
            state.waiting.clear();
            std::mem::take(&mut state.tasks)
        };
        for task in tasks {
            task.abort();
        }
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state().killed
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Sets the node's wall clock, in milliseconds since the Unix epoch.
    pub fn set_wall_clock(&self, wall_ms: u64) {
        let mut state = self.state();
        state.wall_ms = wall_ms;
        state.started = Instant::now();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Gate")
            .field("paused", &state.paused)
            .field("killed", &state.killed)
            .finish_non_exhaustive()
    }
}

/// Starts a task behind the gate of the task that runs, if it has one.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match CURRENT.with_borrow(Option::clone) {
        Some(gate) => gate.spawn(future),
        None => tokio::spawn(future),
    }
}

/// What the wall clock of the running task's node shows.
pub(super) fn wall_clock_ms() -> u64 {
    CURRENT.with_borrow(|gate| {
        gate.as_ref().map_or(0, |gate| {
            let state = gate.state();
            let gone: Duration = state.started.elapsed();
            state.wall_ms.saturating_add(u64::try_from(gone.as_millis()).unwrap_or(u64::MAX))
        })
    })
}

/// While it lives, this node's tasks run.
struct Inside(Option<Gate>);

impl Inside {
    fn new(gate: &Gate) -> Self {
        Self(CURRENT.replace(Some(gate.clone())))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

struct Gated<F> {
    gate: Gate,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.gate.state();
            if state.killed {
                return Poll::Pending;
            }
            if state.paused {
                state.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        let _inside = Inside::new(&self.gate);
        self.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_nodes_timers_fire_late_and_a_killed_ones_never() {
        let gate = Gate::new(0);
        let task = gate.spawn(async {
            let inner = spawn(async { tokio::time::sleep(Duration::from_secs(1)).await });
            let _ = inner.await;
            Instant::now()
        });
        let started = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        gate.pause();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(!task.is_finished());
        gate.resume();
        let end = task.await.expect("it ends");
        assert_eq!(end - started, Duration::from_millis(9_500));
        let never = gate.spawn(std::future::pending::<()>());
        gate.kill();
        assert!(never.await.expect_err("killed").is_cancelled());
    }
}
