//! Putting a participant together and starting it.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unanimity_types::{Limits, LogId, Name, Target};

use crate::client::Client;
use crate::fence::{Durability, Fence, FenceDatabase, FenceError};
use crate::message::{MessageHooks, TypedReceiver};
use crate::participant::error::BuildError;
use crate::participant::health::AttentionList;
use crate::participant::hooks::{TccHooks, Typed};
use crate::participant::sessions::{self, Sessions};
use crate::participant::{HookSet, Participant, Settings, Shared, StopOnDrop, in_doubt, two_phase};
use crate::saga::{StepHooks, TypedStep};
use crate::xa::{ErasedManager, ResourceManager, XaError};

/// A participant that is put together: see [`Participant::builder`].
#[must_use = "nothing happens before `attach` or `called_at`"]
pub struct ParticipantBuilder<DB: FenceDatabase> {
    name: String,
    instance: Option<String>,
    fence: Option<Fence<DB>>,
    hooks: Vec<(String, TypeId, HookSet<DB>)>,
    settings: Settings,
}

impl<DB: FenceDatabase> ParticipantBuilder<DB> {
    pub(super) fn new(name: String, fence: Option<Fence<DB>>) -> Self {
        let mut settings = Settings::default();
        if let Some(fence) = &fence {
            let connections = fence.pool().options().get_max_connections();
            let connections = usize::try_from(connections).unwrap_or(usize::MAX);
            settings.concurrency = settings.concurrency.min(connections.saturating_sub(1).max(1));
        }
        Self { name, instance: None, fence, hooks: Vec::new(), settings }
    }

    /// Registers hooks under the name of their operation, for example `reserve`. The name is part
    /// of what is stored: do not change it while branches are open.
    pub fn tcc<H: TccHooks<DB>>(self, operation: impl Into<String>, hooks: H) -> Self {
        self.hooks(operation.into(), hooks, false)
    }

    /// Registers hooks whose `try_` has an effect **outside** of the database: a call to a payment
    /// provider, a file.
    ///
    /// The fence's row is committed first, then `try_` runs in a second transaction. So when the
    /// process dies in the middle the row is there, the in-doubt loop finds it, and `cancel` comes
    /// although nobody knows how far the try got: it must undo an effect that may or may not be
    /// there, and forbid one that is still under way. `try_` itself may run more than once. Give
    /// the outside system (xid, key) as its idempotency key.
    ///
    /// While the hook runs it holds the row, and in SQLite the database's only write lock.
    pub fn tcc_external<H: TccHooks<DB>>(self, operation: impl Into<String>, hooks: H) -> Self {
        self.hooks(operation.into(), hooks, true)
    }

    fn hooks<H: TccHooks<DB>>(mut self, operation: String, hooks: H, external: bool) -> Self {
        let set = HookSet::Tcc { hooks: Arc::new(Typed::new(hooks)), external };
        self.hooks.push((operation, TypeId::of::<H>(), set));
        self
    }

    /// Registers the hooks of a saga's step under the name of their operation, for example `book`: what
    /// [`crate::StepTarget::participant`] names. The name is part of what is stored: do not change it
    /// while sagas are open.
    pub fn saga_step<H: StepHooks<DB>>(self, operation: impl Into<String>, hooks: H) -> Self {
        self.step(operation.into(), hooks, false)
    }

    /// Registers the hooks of a saga's step whose `action` has an effect **outside** of the database,
    /// or runs a nested transaction ([`crate::nested()`]).
    ///
    /// The fence's row is committed first, then `action` runs in a second transaction. So when the
    /// process dies in the middle the row is there, and `compensate` comes although nobody knows how far
    /// the action got: it must undo an effect that may or may not be there. `action` itself may run more
    /// than once. Give the outside system (xid, key) as its idempotency key. If the first attempt
    /// refuses, it did nothing: `compensate` does not come.
    ///
    /// While the hook runs it holds the row, and in SQLite the database's only write lock.
    pub fn saga_step_external<H: StepHooks<DB>>(self, operation: impl Into<String>, hooks: H) -> Self {
        self.step(operation.into(), hooks, true)
    }

    fn step<H: StepHooks<DB>>(mut self, operation: String, hooks: H, external: bool) -> Self {
        let set = HookSet::Step { hooks: Arc::new(TypedStep::new(hooks)), external };
        self.hooks.push((operation, TypeId::of::<H>(), set));
        self
    }

    /// Registers what receives messages under this name.
    pub fn receiver<H: MessageHooks<DB>>(mut self, name: impl Into<String>, hooks: H) -> Self {
        let set = HookSet::Receiver(Arc::new(TypedReceiver::new(hooks)));
        self.hooks.push((name.into(), TypeId::of::<H>(), set));
        self
    }

    /// Registers a resource manager of two-phase commit under the name of its operation, for example
    /// `transfer`: [`crate::xa::PostgresResource`], [`crate::xa::MySqlResource`], or one of your own.
    /// Branches work in it by [`Participant::two_phase_branch`]. The name is part of what is stored: do
    /// not change it while branches are open.
    ///
    /// What is prepared in it is asked about when the participant starts and while it runs. When it
    /// starts its settings are looked at: what can lose a vote is logged as an error, and a database
    /// that cannot prepare keeps the participant from starting.
    pub fn two_phase<M: ResourceManager>(mut self, operation: impl Into<String>, manager: M) -> Self {
        let set = HookSet::TwoPhase(Arc::new(manager));
        self.hooks.push((operation.into(), TypeId::of::<M>(), set));
        self
    }

    /// Says that this participant sends messages that name it, with this name, in
    /// [`crate::MessageBuilder::check_back`]: it answers from its fence whether their local transactions
    /// committed. Needs no hooks.
    pub fn sender(mut self, name: impl Into<String>) -> Self {
        self.hooks.push((name.into(), TypeId::of::<()>(), HookSet::Sender));
        self
    }

    /// The name of this instance, for people; a random one if not set.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// How many operations may be in hand at once; if not set 32, but always less than the fence's
    /// pool has connections, so that requests find one as well.
    pub fn concurrency(mut self, operations: usize) -> Self {
        self.settings.concurrency = operations.clamp(1, 1_024);
        self
    }

    /// How long a hook may take; 60 s if not set.
    pub fn hook_timeout(mut self, timeout: Duration) -> Self {
        self.settings.hook_timeout = timeout;
        self
    }

    /// From which age on the coordinator is asked about an open branch; 30 s if not set.
    pub fn in_doubt_after(mut self, age: Duration) -> Self {
        self.settings.in_doubt_after = age;
        self
    }

    /// How often open branches are looked through; every 5 s if not set.
    pub fn in_doubt_every(mut self, interval: Duration) -> Self {
        self.settings.in_doubt_every = interval.max(Duration::from_millis(10));
        self
    }

    /// From which age on the coordinator is asked whether a settled row may go; 10 minutes if not
    /// set. It also bounds how long a try may take from its registration to its fence row.
    pub fn collect_after(mut self, age: Duration) -> Self {
        self.settings.collect_after = age;
        self
    }

    /// How often settled rows are collected; every minute if not set.
    pub fn collect_every(mut self, interval: Duration) -> Self {
        self.settings.collect_every = interval.max(Duration::from_millis(10));
        self
    }

    /// How long a shutdown waits for operations in hand; 30 s if not set.
    pub fn drain_for(mut self, limit: Duration) -> Self {
        self.settings.drain_for = limit;
        self
    }

    /// Goes over to a coordinator with another log than the one met before, instead of refusing to
    /// work with it. For development, where a coordinator's log is often thrown away: open
    /// branches of the old log stay as they are and raise attention, since nobody can say what
    /// became of them.
    pub fn accept_new_log(mut self) -> Self {
        self.settings.accept_new_log = true;
        self
    }

    /// Starts it, attached: a session with each of the coordinator's nodes is opened in the background and kept
    /// open, over which operations come. Needs no port of its own.
    ///
    /// # Errors
    /// [`BuildError`]. That a node cannot be reached is none: it is tried again for ever.
    pub async fn attach(self, client: &Client) -> Result<Participant<DB>, BuildError> {
        let participant = self.build(client, None).await?;
        participant.shared.tasks.spawn(sessions::run(Arc::clone(&participant.shared)));
        Ok(participant)
    }

    /// Starts it, to be called: its branches are registered with this address, where
    /// [`Participant::grpc_service`] must be served.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn called_at(
        self,
        client: &Client,
        address: impl Into<String>,
    ) -> Result<Participant<DB>, BuildError> {
        let address = address.into();
        let fits = (address.starts_with("http://") || address.starts_with("https://"))
            && address.len() <= Limits::TARGET_BYTES_MAX
            && !address.chars().any(|c| c.is_control() || c == ' ');
        if !fits {
            return Err(BuildError::Address(address.chars().take(128).collect()));
        }
        self.build(client, Some(address)).await
    }

    async fn build(self, client: &Client, address: Option<String>) -> Result<Participant<DB>, BuildError> {
        let name = checked(&self.name)?;
        let (mut hooks, mut by_type, mut targets) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (operation, type_id, set) in self.hooks {
            let operation_name = checked(&operation)?;
            if self.fence.is_none() && !matches!(set, HookSet::TwoPhase(_)) {
                return Err(BuildError::NeedsFence(operation));
            }
            let operation = operation_name.to_string();
            let target = match &address {
                Some(address) => Target::Grpc(address.as_str().into()),
                None => Target::Participant { participant: name.clone(), operation: operation_name },
            };
            targets.insert(operation.clone(), target);
            // Only a try is found by its hooks' type, which may have hooks of other kinds as well.
            if matches!(set, HookSet::Tcc { .. }) {
                by_type
                    .entry(type_id)
                    .and_modify(|known| *known = None)
                    .or_insert_with(|| Some(operation.clone()));
            }
            if hooks.insert(operation.clone(), set).is_some() {
                return Err(BuildError::DuplicateOperation(operation));
            }
        }
        if hooks.is_empty() {
            return Err(BuildError::NoOperations);
        }
        let mut durability = match &self.fence {
            Some(fence) => fence.check_durability().await?,
            None => Vec::new(),
        };
        for (operation, set) in &hooks {
            let HookSet::TwoPhase(manager) = set else { continue };
            let found = check_manager(manager.as_ref())
                .await
                .map_err(|error| BuildError::ResourceManager { operation: operation.clone(), error })?;
            durability.extend(found.into_iter().filter(|new| !durability.contains(new)).collect::<Vec<_>>());
        }
        for found in &durability {
            if found.loses_data {
                tracing::error!(participant = %name, "acknowledged tries or votes can be lost: {found}");
            } else {
                tracing::warn!(participant = %name, "{found}");
            }
        }
        if let Some(fence) = &self.fence {
            remember_log(fence, name.as_str(), client).await?;
        }
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            name: name.to_string(),
            instance: self.instance.unwrap_or_else(|| format!("{name}-{:08x}", fastrand::u32(..))),
            client: client.clone(),
            fence: self.fence,
            hooks,
            by_type,
            targets,
            permits: Arc::new(Semaphore::new(self.settings.concurrency)),
            settings: self.settings,
            in_hand: AtomicUsize::new(0),
            sessions: Sessions::default(),
            attention: AttentionList::default(),
            durability,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        if shared.fence.is_some() {
            shared.tasks.spawn(in_doubt::run(Arc::clone(&shared)));
            shared.tasks.spawn(in_doubt::run_collection(Arc::clone(&shared)));
        }
        shared.tasks.spawn(two_phase::run(Arc::clone(&shared)));
        shared.tasks.spawn(two_phase::run_collection(Arc::clone(&shared)));
        Ok(Participant { shared, _stop: Arc::new(StopOnDrop(stop)) })
    }
}

/// Looks at a resource manager's settings, and whether its records can be read.
async fn check_manager(manager: &dyn ErasedManager) -> Result<Vec<Durability>, XaError> {
    manager.list_settled(LogId(uuid::Uuid::nil()), 0, None, 1).await?;
    manager.run_check().await
}

fn checked(name: &str) -> Result<Name, BuildError> {
    Name::new(name).map_err(|error| BuildError::Name { name: name.chars().take(128).collect(), error })
}

/// Finds out from the fence which log was met before, and the highest places in it: witnesses
/// that survive a restart.
async fn remember_log<DB: FenceDatabase>(
    fence: &Fence<DB>,
    participant: &str,
    client: &Client,
) -> Result<(), FenceError> {
    let mut connection = fence.pool().acquire().await?;
    // The newest are enough: every row that is left out only makes the witness weaker.
    let open = DB::newest(&mut connection, participant, true, 1_000).await?;
    if let Some(log_id) = open.iter().find_map(|(log_id, _)| *log_id) {
        // Another one may be known already, from another participant of this client; the session
        // will tell.
        if client.witnesses().meet(log_id).is_ok() {
            let settled = DB::newest(&mut connection, participant, false, 1_000).await?;
            for (_, position) in open.iter().chain(&settled).filter(|(known, _)| *known == Some(log_id)) {
                if let Some(position) = position {
                    client.witnesses().observe(*position);
                }
            }
        }
    }
    Ok(())
}
