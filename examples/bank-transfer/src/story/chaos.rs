//! Kills services in the middle of their work, and starts them again.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::plan::PlannedKill;
use super::stack::Stack;

/// How long a dead service stays dead: long enough that transfers meet it.
const DEAD_FOR: Duration = Duration::from_millis(300);

/// A service that was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Which.
    pub victim: String,
    /// How many transfers had been answered.
    pub after: u32,
    /// Until it listened again.
    pub away: Duration,
}

/// Kills as planned while transfers are answered. Ends when that is done, or no more transfers come.
pub(super) async fn run(
    stack: &mut Stack,
    planned: &[PlannedKill],
    mut answered: watch::Receiver<u32>,
) -> anyhow::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    for PlannedKill { after, victim } in planned {
        // The sender lives as long as the clients; if it is gone there is nothing to disturb.
        let Ok(now) = answered.wait_for(|count| count >= after).await.map(|count| *count) else { break };
        let killed = Instant::now();
        stack.service(victim).kill().await?;
        tokio::time::sleep(DEAD_FOR).await;
        stack.service(victim).restart().await?;
        kills.push(Kill { victim: victim.clone(), after: now, away: killed.elapsed() });
    }
    Ok(kills)
}
