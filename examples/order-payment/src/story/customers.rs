//! Customers who place orders, and who ask again when no answer came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::stack::Stack;
use crate::database::{Database, Pools, values, with_database};
use crate::order::{Answer, NewOrder, Outcome};
use crate::services::http_client;

/// How long a customer asks what became of an order.
const ASK_MAX: Duration = Duration::from_secs(60);
/// After an order that failed for technical reasons a customer pauses, as people do.
const PAUSE: Duration = Duration::from_millis(200);

/// An order, and what its customer heard.
#[derive(Debug, Clone)]
pub struct OrderStory {
    /// What was ordered.
    pub order: NewOrder,
    /// How it ended for the customer.
    pub ending: Ending,
}

/// How an order ended for its customer.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The outcome.
    pub outcome: Outcome,
    /// Why, if it was aborted.
    pub reason: String,
    /// Whether the business said no.
    pub refused: bool,
    /// Whether the customer had to ask again, since at first nobody knew.
    pub was_unknown: bool,
}

#[derive(Debug)]
pub(super) struct Customers {
    http: reqwest::Client,
    url: String,
    orders: Vec<NewOrder>,
    concurrency: usize,
    answered: Arc<watch::Sender<u32>>,
}

impl Customers {
    pub(super) fn new(url: &str, orders: Vec<NewOrder>, concurrency: u32) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client()?,
            url: url.to_owned(),
            orders,
            concurrency: concurrency.try_into()?,
            answered: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Counts the orders that were answered.
    pub(super) fn progress(&self) -> watch::Receiver<u32> {
        self.answered.subscribe()
    }

    /// Places all orders, so many at a time.
    pub(super) async fn run(&self) -> anyhow::Result<Vec<OrderStory>> {
        let stories = stream::iter(&self.orders).map(|order| async {
            let ending = self.place(order).await;
            self.answered.send_modify(|count| *count += 1);
            if ending.outcome != Outcome::Committed && !ending.refused {
                tokio::time::sleep(PAUSE).await;
            }
            OrderStory { order: order.clone(), ending }
        });
        Ok(stories.buffered(self.concurrency).collect().await)
    }

    /// Places one order. No answer, or "unknown", is not a no: then asks until somebody knows.
    async fn place(&self, order: &NewOrder) -> Ending {
        let answer = self.http.post(format!("{}/orders", self.url)).json(order).send().await;
        let answer = match answer {
            Ok(answer) => answer.json::<Answer>().await.ok(),
            Err(_) => None,
        };
        match answer {
            Some(answer) if answer.outcome != Outcome::Unknown => Ending {
                outcome: answer.outcome,
                reason: answer.reason.unwrap_or_default(),
                refused: answer.refused,
                was_unknown: false,
            },
            _ => self.ask(order).await,
        }
    }

    /// Settles an order of which nothing is known: it is given up, unless it is decided already.
    async fn ask(&self, order: &NewOrder) -> Ending {
        let id = order.id.unwrap_or_default();
        let url = format!("{}/orders/{id}/settle", self.url);
        let end = Instant::now() + ASK_MAX;
        let mut outcome = Outcome::Unknown;
        while outcome == Outcome::Unknown && Instant::now() < end {
            // The service may still be away.
            tokio::time::sleep(PAUSE).await;
            if let Ok(answer) = self.http.post(&url).send().await
                && let Ok(answer) = answer.json::<Answer>().await
            {
                outcome = answer.outcome;
            }
        }
        let reason = match outcome {
            Outcome::Committed => String::new(),
            Outcome::Aborted => "no answer, given up by its customer".to_owned(),
            Outcome::Unknown => "nobody knows".to_owned(),
        };
        Ending { outcome, reason, refused: false, was_unknown: true }
    }
}

/// Customers who were told something else than what the order service's database says in the end.
pub(super) async fn contradictions(stories: &[OrderStory], stack: &Stack) -> anyhow::Result<Vec<String>> {
    let [order_db, ..] = stack.database_urls();
    let statuses = with_database!(order_db, statuses(order_db))?;
    let told_wrong = stories.iter().filter_map(|OrderStory { order, ending }| {
        let id = order.id.unwrap_or_default().to_string();
        let status = statuses.get(&id).map_or("nothing", String::as_str);
        let fits = match ending.outcome {
            Outcome::Committed => status == "confirmed",
            // An order that never reached the database took no effect either.
            Outcome::Aborted => status == "cancelled" || status == "nothing",
            Outcome::Unknown => true,
        };
        (!fits).then(|| format!("order {id}: the customer heard {:?}, the order is {status}", ending.outcome))
    });
    Ok(told_wrong.collect())
}

async fn statuses<DB: Database>(url: &str) -> anyhow::Result<HashMap<String, String>> {
    let pools: Pools<DB> = DB::open(url).await?;
    let mut connection = pools.read.acquire().await?;
    let rows: Vec<(String, String)> =
        DB::fetch(&mut connection, "SELECT xid, status FROM orders", values![]).await?;
    Ok(rows.into_iter().collect())
}
