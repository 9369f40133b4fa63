//! Runs a checker and says what it found.

use std::fmt;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// What a checker found.
#[derive(Debug, Clone)]
pub struct Report {
    /// How many different states there are.
    pub states: usize,
    /// How many steps were taken.
    pub steps: usize,
    /// The longest way that was gone.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Rules that do not hold, each with the actions that break it.
    pub broken: Vec<(&'static str, String)>,
    /// What must be seen somewhere and was not.
    pub unseen: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, steps, depth, took, .. } = self;
        write!(f, "{states} states, {steps} steps, depth {depth}, {:.1} s", took.as_secs_f64())
    }
}

impl Report {
    /// Checks that no rule was broken and nothing was left unseen.
    ///
    /// # Panics
    /// With the way to the broken rule, or with what was not seen.
    pub fn must_hold(&self, name: &str) {
        let broken: Vec<String> = self.broken.iter().map(|(rule, way)| format!("{rule}\n{way}")).collect();
        assert!(broken.is_empty(), "{name}: {}", broken.join("\n"));
        assert!(self.unseen.is_empty(), "{name} must reach {:?}", self.unseen);
    }
}

/// Visits every state.
pub fn explore<M>(model: M, threads: usize) -> Report
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + Debug + 'static,
    M::Action: Clone + PartialEq + Debug,
{
    run(model, HasDiscoveries::AnyFailures, threads)
}

/// Looks for a state that breaks a rule, the nearest first, and ends with the first one.
pub fn refute<M>(model: M) -> Report
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + Debug + 'static,
    M::Action: Clone + PartialEq + Debug,
{
    run(model, HasDiscoveries::AnyFailures, 1)
}

fn run<M>(model: M, finish_when: HasDiscoveries, threads: usize) -> Report
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + Debug + 'static,
    M::Action: Clone + PartialEq + Debug,
{
    let started = Instant::now();
    let properties = model.properties();
    let checker = model.checker().threads(threads).finish_when(finish_when).spawn_bfs().join();
    let found = checker.discoveries();
    let broken = found.iter().filter(|(name, _)| {
        properties
            .iter()
            .any(|property| property.name == **name && property.expectation.discovery_is_failure())
    });
    let broken = broken.map(|(name, path)| {
        let actions: Vec<String> =
            path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
        (*name, format!("{}\n{:#?}", actions.join("\n"), path.last_state()))
    });
    let unseen = properties
        .iter()
        .filter(|property| {
            property.expectation == Expectation::Sometimes && !found.contains_key(property.name)
        })
        .map(|property| property.name);
    Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: started.elapsed(),
        broken: broken.collect(),
        unseen: unseen.collect(),
    }
}
