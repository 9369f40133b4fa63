//! Who is killed, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::sleep;

use super::senders::Senders;
use super::stack::{READY_LIMIT, Stack, Victim};

/// The limit of the whole story.
const STORY_LIMIT: Duration = Duration::from_secs(420);
/// How often somebody looks how far the messages are.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// So many SIGKILLs, spread over the messages: work goes on by itself after each of them.
pub(super) async fn of_everything(
    stack: &mut Stack,
    senders: &Arc<Senders>,
    least: u64,
    random: &mut fastrand::Rng,
) -> anyhow::Result<String> {
    let started = Instant::now();
    let mut kills: BTreeMap<Victim, usize> = BTreeMap::new();
    let mut turn: Vec<Victim> = Vec::new();
    for count in 1..=least {
        // As many messages before each kill, and after the last one.
        while senders.picked() < senders.goal() * count / (least + 1) {
            ensure!(started.elapsed() < STORY_LIMIT, "{kills:?}, {} messages so far", senders.picked());
            sleep(LOOK_EVERY).await;
        }
        sleep(Duration::from_millis(random.u64(..200))).await;
        if turn.is_empty() {
            // Everybody once, in a random order, before anybody twice.
            turn.extend(Victim::ALL);
            random.shuffle(&mut turn);
        }
        let victim = turn.pop().unwrap_or(Victim::Coordinator);
        // Both relays at once, sometimes: then nobody brings messages until one is back.
        let together = match victim {
            Victim::FirstRelay if random.bool() => vec![victim, Victim::SecondRelay],
            _ => vec![victim],
        };
        kill(stack, &together, &mut kills, random).await?;
        // The coordinator once more, sometimes, while it recovers.
        if victim == Victim::Coordinator && random.bool() {
            sleep(Duration::from_millis(random.u64(..400))).await;
            kill(stack, &together, &mut kills, random).await?;
        }
        stack.coordinator.ready(READY_LIMIT).await?;
    }
    while !senders.have_sent() {
        ensure!(started.elapsed() < STORY_LIMIT, "{kills:?}, {} messages so far", senders.picked());
        sleep(LOOK_EVERY).await;
    }
    let counts: Vec<String> =
        kills.iter().map(|(victim, count)| format!("{} {count}", victim.name())).collect();
    Ok(format!("SIGKILLs: {} ({})", kills.values().sum::<usize>(), counts.join(", ")))
}

async fn kill(
    stack: &mut Stack,
    victims: &[Victim],
    kills: &mut BTreeMap<Victim, usize>,
    random: &mut fastrand::Rng,
) -> anyhow::Result<()> {
    for victim in victims {
        stack.process(*victim).kill()?;
        *kills.entry(*victim).or_default() += 1;
    }
    sleep(Duration::from_millis(random.u64(..700))).await;
    for victim in victims {
        stack.process(*victim).start()?;
    }
    Ok(())
}
