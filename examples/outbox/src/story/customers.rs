//! Customers who order, and send an order again where no answer came.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::StatusCode;
use tokio::sync::watch;

use super::stack::{Member, Stack};
use crate::services::http_client;
use crate::shop::NewOrder;

/// How long a customer tries.
const TRY_FOR: Duration = Duration::from_secs(60);
/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// What a customer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The order is taken.
    Taken,
    /// The business says no: nothing of it is there.
    RolledBack,
    /// Nobody answered.
    Unknown,
}

/// An order, and what its customer heard.
#[derive(Debug, Clone)]
pub struct OrderStory {
    /// The order.
    pub order: NewOrder,
    /// The last word.
    pub answer: Answer,
    /// Whether it was sent more than once.
    pub sent_again: bool,
}

#[derive(Debug)]
pub(super) struct Customers {
    http: reqwest::Client,
    url: String,
    orders: Vec<NewOrder>,
    concurrency: usize,
    answered: watch::Sender<u32>,
}

impl Customers {
    pub(super) fn new(shop: &str, orders: Vec<NewOrder>, concurrency: u32) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client()?,
            url: format!("{shop}/orders"),
            orders,
            concurrency: usize::try_from(concurrency).unwrap_or(1),
            answered: watch::Sender::new(0),
        })
    }

    /// How many orders have been answered.
    pub(super) fn progress(&self) -> watch::Receiver<u32> {
        self.answered.subscribe()
    }

    /// Places all orders.
    pub(super) async fn run(&self) -> anyhow::Result<Vec<OrderStory>> {
        let placed: Vec<_> = self.orders.iter().map(|order| self.place(order)).collect();
        let stories: Vec<_> = futures::stream::iter(placed).buffered(self.concurrency).collect().await;
        stories.into_iter().collect()
    }

    async fn place(&self, order: &NewOrder) -> anyhow::Result<OrderStory> {
        let end = Instant::now() + TRY_FOR;
        let mut sent_again = false;
        let answer = loop {
            match self.http.post(&self.url).json(order).send().await.map(|answer| answer.status()) {
                Ok(StatusCode::CREATED) => break Answer::Taken,
                Ok(StatusCode::CONFLICT) => break Answer::RolledBack,
                Ok(StatusCode::BAD_REQUEST) => anyhow::bail!("the shop does not understand {order:?}"),
                _ if Instant::now() >= end => break Answer::Unknown,
                _ => {}
            }
            // The same id again is the same order, whatever became of the first attempt.
            sent_again = true;
            tokio::time::sleep(PAUSE).await;
        };
        self.answered.send_modify(|count| *count += 1);
        Ok(OrderStory { order: order.clone(), answer, sent_again })
    }
}

/// Customers whose last word is not what the shop has.
pub(super) async fn contradictions(orders: &[OrderStory], stack: &Stack) -> anyhow::Result<Vec<String>> {
    let (http, shop) = (http_client()?, stack.url(Member::Shop));
    let mut found = Vec::new();
    for OrderStory { order, answer, .. } in orders {
        let status = http.get(format!("{shop}/orders/{}", order.id)).send().await?.status();
        let wrong = match (answer, status) {
            (Answer::Unknown, _)
            | (Answer::Taken, StatusCode::OK)
            | (Answer::RolledBack, StatusCode::NOT_FOUND) => false,
            (Answer::Taken | Answer::RolledBack, _) => true,
        };
        if wrong {
            found.push(format!("order {}: its customer heard {answer:?}, the shop says {status}", order.id));
        }
    }
    Ok(found)
}
