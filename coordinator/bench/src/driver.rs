//! One workload against one product: what the generator repeats and times.

mod dtm;
mod unanimity;

use std::future::Future;

use crate::error::Error;
use crate::measure::Outcome;
use crate::options::{Options, Product};
use crate::places::Places;

/// One transaction that is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shot {
    /// Counted from 0 in each generator.
    pub number: u64,
    /// When it was to begin: microseconds since the epoch, of [`now_us`](crate::now_us). Latencies count
    /// from here.
    pub intended_us: u64,
    /// Whether it is to abort.
    pub abort: bool,
}

/// Runs transactions of one kind against one product.
///
/// A driver measures nothing: it says when what happened, and the pace-maker and the recorder do the
/// rest, the same for all products.
pub trait Driver: Send + Sync + 'static {
    /// Runs one transaction to its decision, or as far as the driver says it waits. Never panics: what
    /// goes wrong is [`End::Failed`](crate::End::Failed).
    fn run(&self, shot: Shot) -> impl Future<Output = Outcome> + Send;
}

/// The driver that the options name.
pub(crate) enum AnyDriver {
    Unanimity(unanimity::Unanimity),
    Dtm(dtm::Dtm),
}

impl AnyDriver {
    /// Must be called inside a tokio runtime.
    pub(crate) async fn new(options: Options, places: Places) -> Result<Self, Error> {
        Ok(match options.driver {
            Product::Unanimity => Self::Unanimity(unanimity::Unanimity::new(options, places)?),
            Product::Dtm => Self::Dtm(dtm::Dtm::new(&options, places).await?),
        })
    }
}

impl Driver for AnyDriver {
    async fn run(&self, shot: Shot) -> Outcome {
        match self {
            Self::Unanimity(driver) => driver.run(shot).await,
            Self::Dtm(driver) => driver.run(shot).await,
        }
    }
}

/// Which of a hundred transactions abort: spread evenly, the same in each run.
pub(crate) const fn is_abort(number: u64, percent: u32) -> bool {
    // The fraction's carry: 30 % are 3 of 10, not the first 30 of 100.
    (number % 100 + 1) * percent as u64 / 100 != (number % 100) * percent as u64 / 100
}

#[cfg(test)]
mod tests {
    use super::is_abort;

    #[test]
    fn aborts_have_their_share_and_are_spread() {
        for percent in 0..=100 {
            let aborts = (0..1_000).filter(|number| is_abort(*number, percent)).count();
            assert_eq!(aborts, 10 * usize::try_from(percent).expect("small"));
        }
        assert_eq!((0..10).filter(|number| is_abort(*number, 30)).count(), 3);
    }
}
