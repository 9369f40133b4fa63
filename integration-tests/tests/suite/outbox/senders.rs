//! Customers who place orders all the time, send some of them again, and remember what they hear.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::wait::http_client;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::stack::{Stack, Victim};

/// Longer than the shop takes for any answer of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// What a customer waits after no answer: an outage shall not be a flood of orders.
const PAUSE: Duration = Duration::from_millis(100);
/// Messages that senders may be ahead of the warehouse: then kills of the shop and kills of what delivers hit the same
/// time.
const AHEAD_MAX: u64 = 600;
/// Lines of one order, at most.
const LINES_MAX: u64 = 4;
/// What no customer can pay for: such an order is rolled back after its messages were written.
const TOO_MANY: i64 = 1_000_000;
const PRODUCTS: [&str; 4] = ["atlas", "map", "compass", "lantern"];
/// The product that the warehouse refuses until it has a shelf for it.
pub(super) const NO_SHELF: &str = "globe";
const CUSTOMERS: [&str; 8] = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hanna"];

/// What a customer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Taken,
    RolledBack,
    /// No answer: nobody asked again.
    Unknown,
}

/// An order, and what was heard of it.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) lines: u64,
    pub(super) told: Told,
}

pub(super) struct Senders {
    http: reqwest::Client,
    orders_url: String,
    warehouse_db: String,
    /// Stops at so many messages.
    goal: u64,
    /// Messages of orders that were taken.
    sent: AtomicU64,
    /// Messages that the warehouse has picked, as last seen.
    picked: AtomicU64,
    heard: Mutex<HashMap<Uuid, Order>>,
    closed: AtomicBool,
}

impl Senders {
    pub(super) fn open(stack: &Stack, goal: u64) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: http_client(ANSWER_LIMIT)?,
            orders_url: format!("{}/orders", stack.url(Victim::Shop)),
            warehouse_db: stack.warehouse_db.clone(),
            goal,
            sent: AtomicU64::new(0),
            picked: AtomicU64::new(0),
            heard: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Lets so many customers in, and somebody who counts.
    pub(super) fn start(self: &Arc<Self>, count: u64, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let mut tasks: Vec<JoinHandle<()>> = (0..count)
            .map(|_| {
                let (senders, mut random) = (Arc::clone(self), random.fork());
                tokio::spawn(async move {
                    while !senders.closed.load(Ordering::Relaxed) && !senders.have_sent() {
                        senders.place(&mut random).await;
                    }
                })
            })
            .collect();
        let counter = Arc::clone(self);
        tasks.push(tokio::spawn(async move {
            while !counter.closed.load(Ordering::Relaxed) {
                // No answer is no news.
                let _ = counter.count().await;
                tokio::time::sleep(PAUSE).await;
            }
        }));
        tasks
    }

    /// Nobody orders any more; what is under way ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn have_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed) >= self.goal
    }

    /// Messages that the warehouse has picked.
    pub(super) fn picked(&self) -> u64 {
        self.picked.load(Ordering::Relaxed)
    }

    pub(super) fn goal(&self) -> u64 {
        self.goal
    }

    pub(super) fn all(&self) -> HashMap<Uuid, Order> {
        self.heard.lock().unwrap().clone()
    }

    async fn count(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.warehouse_db).await?;
        let picked: i64 = sqlx::query_scalar("SELECT count(*) FROM picks").fetch_one(&mut connection).await?;
        self.picked.store(picked.unsigned_abs(), Ordering::Relaxed);
        Ok(connection.close().await?)
    }

    async fn place(&self, random: &mut fastrand::Rng) {
        if self.sent.load(Ordering::Relaxed) > self.picked() + AHEAD_MAX {
            tokio::time::sleep(Duration::from_millis(random.u64(10..50))).await;
            return;
        }
        let lines = random.u64(1..=LINES_MAX);
        let order = order(random, lines);
        let told = loop {
            match self
                .http
                .post(&self.orders_url)
                .json(&order)
                .send()
                .await
                .map(|answer| answer.status().as_u16())
            {
                Ok(201) => break Told::Taken,
                Ok(409) => break Told::RolledBack,
                // Nobody knows: some give up, most send it again.
                Ok(503) | Err(_) if self.closed.load(Ordering::Relaxed) || random.u32(..4) == 0 => {
                    break Told::Unknown;
                }
                Ok(503) | Err(_) => tokio::time::sleep(PAUSE).await,
                Ok(status) => panic!("{status} for {order}"),
            }
        };
        if told == Told::Taken {
            self.sent.fetch_add(lines, Ordering::Relaxed);
        } else if told == Told::Unknown {
            tokio::time::sleep(PAUSE).await;
        }
        let id = order["id"].as_str().and_then(|id| id.parse().ok()).expect("we gave it an id");
        self.heard.lock().unwrap().insert(id, Order { lines, told });
    }
}

fn order(random: &mut fastrand::Rng, lines: u64) -> Value {
    let customer = match random.usize(..64) {
        known if known < CUSTOMERS.len() => CUSTOMERS[known].to_owned(),
        other => format!("customer-{}", other + 1),
    };
    let mut lines: Vec<Value> = (0..lines)
        .map(|_| {
            let sku =
                if random.u32(..300) == 0 { NO_SHELF } else { PRODUCTS[random.usize(..PRODUCTS.len())] };
            json!({ "sku": sku, "quantity": random.i64(1..=3) })
        })
        .collect();
    if random.u32(..8) == 0
        && let Some(last) = lines.last_mut()
    {
        last["quantity"] = TOO_MANY.into();
    }
    // Not from the seed: an id must never come again.
    json!({ "id": Uuid::new_v4(), "customer": customer, "lines": lines })
}
