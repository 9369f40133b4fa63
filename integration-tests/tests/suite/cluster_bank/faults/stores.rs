//! What goes wrong with the banks and with all databases.

use std::time::Duration;

use tokio::time::sleep;

use super::super::stack::Stores;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::enum_variant_names, reason = "told beside the other faults, where the word is needed")]
pub(in super::super) enum StoreFault {
    KillBank,
    KillBankDatabase,
    KillLogDatabase,
}

impl StoreFault {
    pub(super) const ALL: [Self; 3] = [Self::KillBank, Self::KillBankDatabase, Self::KillLogDatabase];

    /// Lets it happen; answers whether it hit anything.
    pub(super) async fn happen(
        self,
        stores: &mut Stores,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<bool> {
        let moment = Duration::from_millis(random.u64(..1_500));
        let bank = random.usize(..stores.banks.len());
        match self {
            Self::KillBank => {
                stores.banks[bank].process.kill()?;
                sleep(moment).await;
                stores.banks[bank].process.start()?;
            }
            Self::KillBankDatabase => {
                stores.banks[bank].server.kill().await?;
                sleep(moment).await;
                stores.banks[bank].server.restart().await?;
            }
            Self::KillLogDatabase => {
                stores.log.kill().await?;
                sleep(moment).await;
                stores.log.restart().await?;
            }
        }
        Ok(true)
    }
}
