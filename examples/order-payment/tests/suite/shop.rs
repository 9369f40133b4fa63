//! The three services in this process, with a coordinator for tests.

use std::time::Duration;

use order_payment::order::{Answer, NewOrder, Outcome};
use order_payment::services::{Kind, Options, Running, start};
use order_payment::{Report, check_invariants};
use reqwest::StatusCode;
use unanimity_testing::TestCoordinator;
use uuid::Uuid;

/// Goods and money for so many orders: 40 samovars less than wanted, little money for gus.
const DEMO_ORDERS: u32 = 20;

struct Shop {
    coordinator: TestCoordinator,
    order: Running,
    payment: Running,
    inventory: Running,
    databases: [String; 3],
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let coordinator = TestCoordinator::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let databases =
            Kind::ALL.map(|kind| format!("sqlite://{}", directory.path().join(kind.name()).display()));
        let options = |database: &str| Options {
            demo_orders: DEMO_ORDERS,
            ..Options::new(coordinator.url(), database)
        };
        let payment = start(Kind::Payment, &options(&databases[1])).await.unwrap();
        let inventory = start(Kind::Inventory, &options(&databases[2])).await.unwrap();
        let order =
            Options { payment_url: payment.url(), inventory_url: inventory.url(), ..options(&databases[0]) };
        let order = start(Kind::Order, &order).await.unwrap();
        let http = reqwest::Client::new();
        Self { coordinator, order, payment, inventory, databases, http, _directory: directory }
    }

    async fn order(&self, customer: &str, sku: &str, quantity: i64) -> (StatusCode, Answer) {
        self.post(&NewOrder { id: None, customer: customer.into(), sku: sku.into(), quantity }).await
    }

    async fn post(&self, order: &NewOrder) -> (StatusCode, Answer) {
        let answer = self.http.post(format!("{}/orders", self.order.url())).json(order).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// What the databases say when nothing is under way any more.
    async fn settled(&self) -> Report {
        for _ in 0..400 {
            let [order, payment, inventory] = &self.databases;
            let report = check_invariants(order, payment, inventory).await.unwrap();
            assert!(report.held(), "{report:?}");
            if report.settled() {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not settled");
    }

    async fn close(self) {
        self.order.shutdown().await;
        self.payment.shutdown().await;
        self.inventory.shutdown().await;
        self.coordinator.shutdown().await;
    }
}

#[tokio::test]
async fn an_order_takes_stock_and_money() {
    let shop = Shop::open().await;
    let before = shop.settled().await;
    let (status, answer) = shop.order("ada", "mug", 3).await;
    assert_eq!((status, answer.outcome), (StatusCode::CREATED, Outcome::Committed));
    let after = shop.settled().await;
    assert_eq!((after.orders.confirmed, after.orders.cancelled), (1, 0));
    assert_eq!(after.stock.available, before.stock.available - 3);
    assert_eq!(after.money.revenue, 3 * 900);
    assert_eq!(after.money.customers, before.money.customers - 3 * 900);
    shop.close().await;
}

#[tokio::test]
async fn out_of_stock_takes_neither_stock_nor_money() {
    let shop = Shop::open().await;
    let before = shop.settled().await;
    let (status, answer) = shop.order("ada", "samovar", 999).await;
    assert_eq!((status, answer.outcome), (StatusCode::CONFLICT, Outcome::Aborted));
    assert_eq!(answer.reason.as_deref(), Some("out of stock: samovar"));
    let after = shop.settled().await;
    assert_eq!((after.orders.confirmed, after.orders.cancelled), (0, 1));
    assert_eq!(after.stock.available, before.stock.available);
    assert_eq!(after.money.customers, before.money.customers);
    // The reason is kept with the order.
    let url = format!("{}/orders/{}", shop.order.url(), answer.xid);
    let asked: Answer = shop.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!((asked.outcome, asked.reason), (Outcome::Aborted, answer.reason));
    shop.close().await;
}

#[tokio::test]
async fn out_of_money_gives_the_stock_back() {
    let shop = Shop::open().await;
    let before = shop.settled().await;
    let (status, answer) = shop.order("gus", "kettle", 9).await;
    assert_eq!((status, answer.outcome), (StatusCode::CONFLICT, Outcome::Aborted));
    assert_eq!(answer.reason.as_deref(), Some("not enough money: gus"));
    let after = shop.settled().await;
    assert_eq!(after.stock.available, before.stock.available);
    assert_eq!(after.money.customers, before.money.customers);
    shop.close().await;
}

#[tokio::test]
async fn the_last_one_is_sold_once() {
    let shop = Shop::open().await;
    let before = shop.settled().await;
    let all = futures::future::join_all((0..12).map(|_| shop.order("ada", "samovar", 1))).await;
    let sold = all.iter().filter(|(_, answer)| answer.outcome == Outcome::Committed).count();
    let samovars = order_payment::demo::stock("samovar", DEMO_ORDERS);
    assert_eq!(i64::try_from(sold).unwrap(), samovars, "{all:?}");
    assert_eq!(shop.settled().await.stock.available, before.stock.available - samovars);
    shop.close().await;
}

#[tokio::test]
async fn the_same_order_twice_buys_once() {
    let shop = Shop::open().await;
    let order = NewOrder { id: Some(Uuid::new_v4()), customer: "ada".into(), sku: "mug".into(), quantity: 1 };
    let (_, first) = shop.post(&order).await;
    shop.settled().await;
    let (status, second) = shop.post(&order).await;
    assert_eq!((status, &second), (StatusCode::CREATED, &first));
    assert_eq!(shop.settled().await.money.revenue, 900);
    shop.close().await;
}

#[tokio::test]
async fn a_given_up_order_stays_given_up() {
    let shop = Shop::open().await;
    let order = NewOrder { id: Some(Uuid::new_v4()), customer: "ada".into(), sku: "mug".into(), quantity: 1 };
    let url = format!("{}/orders/{}", shop.order.url(), order.id.unwrap());
    assert_eq!(shop.http.get(&url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let settled =
        shop.http.post(format!("{url}/settle")).send().await.unwrap().json::<Answer>().await.unwrap();
    assert_eq!(settled.outcome, Outcome::Aborted);
    // The request that was thought lost arrives late.
    let (_, late) = shop.post(&order).await;
    assert_eq!(late.outcome, Outcome::Aborted);
    assert_eq!(shop.settled().await.money.revenue, 0);

    let (_, bought) = shop.order("ada", "mug", 1).await;
    let url = format!("{}/orders/{}/settle", shop.order.url(), bought.xid);
    let settled = shop.http.post(url).send().await.unwrap().json::<Answer>().await.unwrap();
    assert_eq!(settled.outcome, Outcome::Committed);
    shop.close().await;
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let shop = Shop::open().await;
    for (sku, quantity) in [("mug", 0), ("mug", -1), ("mug", i64::MAX), ("unicorn", 1), ("", 1)] {
        let order = NewOrder { id: None, customer: "ada".into(), sku: sku.into(), quantity };
        let url = format!("{}/orders", shop.order.url());
        let answer = shop.http.post(url).json(&order).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{sku} {quantity}");
    }
    // A stranger's account has no money.
    assert_eq!(shop.order("mallory", "mug", 1).await.0, StatusCode::CONFLICT);
    // Stock is reserved for transactions only.
    let body = serde_json::json!({"sku": "mug", "quantity": 1});
    let url = format!("{}/reserve", shop.inventory.url());
    assert_eq!(shop.http.post(url).json(&body).send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(shop.settled().await.stock.sold, 0);
    shop.close().await;
}

#[tokio::test]
async fn a_service_tells_how_it_is() {
    let shop = Shop::open().await;
    shop.order("ada", "mug", 2).await;
    shop.settled().await;
    for service in [&shop.order, &shop.payment, &shop.inventory] {
        let health = shop.http.get(format!("{}/healthz", service.url())).send().await.unwrap();
        assert_eq!(health.status(), StatusCode::OK);
        let sums: serde_json::Value = {
            let url = format!("{}/invariants", service.url());
            shop.http.get(url).send().await.unwrap().json().await.unwrap()
        };
        assert_eq!(sums["open_fence_rows"], 0, "{sums}");
    }
    shop.close().await;
}
