//! Customers who place orders all the time, ask again, and remember everything that they hear.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::shop::Service;
use integration_tests::wait::http_client;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Stack;

/// Longer than the order service takes for any answer of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// What a customer waits after an order without an outcome, as people do: an outage shall not be a flood of orders.
const PAUSE: Duration = Duration::from_millis(150);
/// One order in so many is asked about again although its outcome was told.
const ASK_AGAIN_EVERY: u32 = 5;

/// What a customer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Committed,
    Aborted,
    /// No answer, or "nobody knows yet".
    Unknown,
}

/// What was heard about one order, and from whom.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(pub(crate) Vec<(&'static str, Told)>);

impl Heard {
    pub(crate) fn has(&self, told: Told) -> bool {
        self.0.iter().any(|(_, heard)| *heard == told)
    }

    /// Whether it came to be known whether it committed.
    pub(crate) fn has_outcome(&self) -> bool {
        self.has(Told::Committed) || self.has(Told::Aborted)
    }
}

#[derive(Debug)]
pub(crate) struct Customers {
    http: reqwest::Client,
    orders_url: String,
    coordinator_urls: Vec<String>,
    products: Vec<String>,
    names: Vec<String>,
    heard: Mutex<HashMap<Uuid, Heard>>,
    /// Orders that neither committed nor were refused by the business at the first attempt, and what was said.
    failed: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Customers {
    pub(crate) async fn open(stack: &Stack) -> anyhow::Result<Arc<Self>> {
        let mut inventory = PgConnection::connect(stack.shop.database_url(Service::Inventory)).await?;
        let products =
            sqlx::query_scalar("SELECT sku FROM stock ORDER BY sku").fetch_all(&mut inventory).await?;
        let mut payment = PgConnection::connect(stack.shop.database_url(Service::Payment)).await?;
        let sql = "SELECT name FROM accounts WHERE name <> 'merchant' ORDER BY name";
        let names = sqlx::query_scalar(sql).fetch_all(&mut payment).await?;
        Ok(Arc::new(Self {
            http: http_client(ANSWER_LIMIT)?,
            orders_url: format!("{}/orders", stack.shop.url(Service::Order)),
            coordinator_urls: stack
                .coordinators
                .iter()
                .map(|coordinator| format!("{}/v1/transactions", coordinator.url()))
                .collect(),
            products,
            names,
            heard: Mutex::default(),
            failed: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Lets so many customers in.
    pub(crate) fn start(self: &Arc<Self>, count: u64, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let shop = |_| {
            let (customers, mut random) = (Arc::clone(self), random.fork());
            tokio::spawn(async move {
                while !customers.closed.load(Ordering::Relaxed) {
                    customers.buy(&mut random).await;
                }
            })
        };
        (0..count).map(shop).collect()
    }

    /// Nobody orders any more; what is under way ends.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How many orders have been placed and answered, or given up.
    pub(crate) fn placed(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// How many of them committed, as far as their customers know.
    pub(crate) fn committed(&self) -> usize {
        self.heard.lock().unwrap().values().filter(|heard| heard.has(Told::Committed)).count()
    }

    pub(crate) fn all(&self) -> HashMap<Uuid, Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn remember(&self, xid: Uuid, whom: &'static str, told: Told) -> Told {
        self.heard.lock().unwrap().entry(xid).or_default().0.push((whom, told));
        told
    }

    /// Places one order; asks again where nobody knew, and now and then where somebody did.
    async fn buy(&self, random: &mut fastrand::Rng) {
        // Not from the seed: an xid must never come again.
        let xid = Uuid::new_v4();
        let order = json!({
            "id": xid,
            "customer": random.choice(&self.names),
            "sku": random.choice(&self.products),
            "quantity": random.i64(1..=3),
        });
        let answer = answer(self.http.post(&self.orders_url).json(&order)).await;
        let told = told_by(&answer).unwrap_or(Told::Unknown);
        let refused = answer.as_ref().is_ok_and(|(_, answer)| answer["refused"] == true);
        if told != Told::Committed && !refused {
            self.failed.lock().unwrap().push(format!("order {xid}: {answer:?}"));
        }
        self.remember(xid, "order", told);
        if told == Told::Unknown {
            tokio::time::sleep(PAUSE).await;
            // Some give up, some ask, some want an end of it.
            match random.u32(..4) {
                0 => {}
                1 => drop(self.ask_shop(xid).await),
                2 => drop(self.ask_coordinator(xid).await),
                _ => drop(self.settle(xid).await),
            }
        } else if random.u32(..ASK_AGAIN_EVERY) == 0 {
            match random.u32(..3) {
                0 => drop(self.ask_shop(xid).await),
                1 => drop(self.ask_coordinator(xid).await),
                // The very same order once more: must not buy twice.
                _ => drop(self.tell(xid, "order again", self.http.post(&self.orders_url).json(&order)).await),
            }
        }
    }

    /// Asks the order service.
    pub(crate) async fn ask_shop(&self, xid: Uuid) -> Told {
        self.tell(xid, "shop", self.http.get(format!("{}/{xid}", self.orders_url))).await
    }

    /// Asks the order service to abort what is not decided.
    pub(crate) async fn settle(&self, xid: Uuid) -> Told {
        self.tell(xid, "settle", self.http.post(format!("{}/{xid}/settle", self.orders_url))).await
    }

    /// Asks the coordinator itself: the first node that answers.
    pub(crate) async fn ask_coordinator(&self, xid: Uuid) -> Told {
        let mut told = Told::Unknown;
        for url in &self.coordinator_urls {
            told = self.tell(xid, "coordinator", self.http.get(format!("{url}/{xid}"))).await;
            if told != Told::Unknown {
                break;
            }
        }
        told
    }

    /// What was said about orders that neither committed nor were refused by the business.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    async fn tell(&self, xid: Uuid, whom: &'static str, request: reqwest::RequestBuilder) -> Told {
        let told = told(request).await.unwrap_or(Told::Unknown);
        self.remember(xid, whom, told)
    }
}

/// The outcome in an answer of a service or of the coordinator. Whatever is not clear is no outcome.
pub(crate) async fn told(request: reqwest::RequestBuilder) -> anyhow::Result<Told> {
    told_by(&answer(request).await)
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

fn told_by(answer: &anyhow::Result<(u16, Value)>) -> anyhow::Result<Told> {
    let (status, answer) = answer.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let outcome = answer["outcome"].as_str().or(answer["decision"].as_str());
    let told = match outcome.context("no outcome")? {
        "committed" | "commit" => Told::Committed,
        "aborted" | "abort" => Told::Aborted,
        _ => Told::Unknown,
    };
    // An order's status says the same as its body.
    ensure!(told != Told::Committed || *status < 300, "{status}: {answer}");
    Ok(told)
}
