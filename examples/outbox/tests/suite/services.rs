//! The services in this process, with a coordinator for tests.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_example::check::{Report, check};
use outbox_example::demo;
use outbox_example::relay::{Dead, Lag};
use outbox_example::services::{Kind, Options, Running, start};
use outbox_example::shop::{Line, NewOrder, NewVoucher};
use outbox_example::warehouse::NewShelf;
use reqwest::StatusCode;
use serde::Serialize;
use unanimity_testing::TestCoordinator;
use uuid::Uuid;

struct World {
    coordinator: TestCoordinator,
    /// With a relay in it.
    shop: Running,
    warehouse: Running,
    databases: [String; 2],
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl World {
    async fn open() -> Self {
        let coordinator = TestCoordinator::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let databases =
            ["shop", "warehouse"].map(|name| format!("sqlite://{}", directory.path().join(name).display()));
        let options = Options { with_relay: true, ..Options::new(coordinator.url(), &databases[0]) };
        let shop = start(Kind::Shop, &options).await.unwrap();
        let options = Options::new(coordinator.url(), &databases[1]);
        let warehouse = start(Kind::Warehouse, &options).await.unwrap();
        let http = reqwest::Client::new();
        Self { coordinator, shop, warehouse, databases, http, _directory: directory }
    }

    async fn post(&self, service: &Running, path: &str, body: &impl Serialize) -> StatusCode {
        self.http.post(format!("{}{path}", service.url())).json(body).send().await.unwrap().status()
    }

    async fn order(&self, order: &NewOrder) -> StatusCode {
        self.post(&self.shop, "/orders", order).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.http.get(format!("{}{path}", self.shop.url())).send().await.unwrap().json().await.unwrap()
    }

    /// What the databases say when the relay has nothing to do any more.
    async fn settled(&self, replayed: &BTreeSet<String>) -> Report {
        for _ in 0..400 {
            let lag: Lag = self.get("/relay").await;
            if lag.pending + lag.handed == 0 {
                let report = check(&self.databases[0], &self.databases[1], replayed).await.unwrap();
                assert!(report.held(), "{report:?}");
                return report;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not settled");
    }

    async fn close(self) {
        self.shop.shutdown().await;
        self.warehouse.shutdown().await;
        self.coordinator.shutdown().await;
    }
}

fn order(customer: &str, lines: &[(&str, i64)]) -> NewOrder {
    let lines = lines.iter().map(|(sku, quantity)| Line { sku: (*sku).to_owned(), quantity: *quantity });
    NewOrder { id: Uuid::new_v4(), customer: customer.to_owned(), lines: lines.collect() }
}

#[tokio::test]
async fn i10_what_committed_is_picked_once_and_what_rolled_back_is_not() {
    let world = World::open().await;
    let bought = order("ada", &[("map", 2), ("atlas", 1)]);
    assert_eq!(world.order(&bought).await, StatusCode::CREATED);
    assert_eq!(world.order(&bought).await, StatusCode::CREATED, "the same order again");
    // O1: the messages were written before the credit was looked at.
    assert_eq!(world.order(&order(demo::POOR, &[("map", 1), ("atlas", 999)])).await, StatusCode::CONFLICT);
    let report = world.settled(&BTreeSet::new()).await;
    assert_eq!((report.orders, report.lines, report.picks, report.missing), (1, 2, 2, 0));
    world.close().await;
}

#[tokio::test]
async fn a_refused_message_is_a_dead_letter_until_it_is_replayed() {
    let world = World::open().await;
    assert_eq!(world.order(&order("ada", &[(demo::NO_SHELF, 1), ("map", 1)])).await, StatusCode::CREATED);
    let report = world.settled(&BTreeSet::new()).await;
    assert_eq!((report.picks, report.missing), (1, 1), "the next of its key does not wait for a dead letter");
    let dead: Vec<Dead> = world.get("/dead-letters").await;
    assert_eq!((dead.len(), dead[0].key.as_str(), dead[0].cause.as_str()), (1, "ada", "parked"));
    let none: Vec<Dead> = world.get(&format!("/dead-letters?after={}", dead[0].place)).await;
    assert!(none.is_empty());

    let shelf = NewShelf { sku: demo::NO_SHELF.to_owned() };
    assert_eq!(world.post(&world.warehouse, "/shelves", &shelf).await, StatusCode::NO_CONTENT);
    let replay = format!("/dead-letters/{}/replay", dead[0].id);
    assert_eq!(world.post(&world.shop, &replay, &()).await, StatusCode::ACCEPTED);
    let report = world.settled(&[dead[0].id.to_string()].into()).await;
    assert_eq!((report.picks, report.missing), (2, 0));
    assert_eq!(world.post(&world.shop, &replay, &()).await, StatusCode::CONFLICT, "it is not dead any more");
    let unknown = format!("/dead-letters/{}/replay", Uuid::new_v4());
    assert_eq!(world.post(&world.shop, &unknown, &()).await, StatusCode::NOT_FOUND);
    world.close().await;
}

#[tokio::test]
async fn a_voucher_is_mailed_if_it_was_issued() {
    let world = World::open().await;
    let voucher = |customer: &str, cents| NewVoucher {
        id: Uuid::new_v4(),
        customer: customer.into(),
        cents,
        crash: None,
    };
    assert_eq!(world.post(&world.shop, "/vouchers", &voucher("ada", 500)).await, StatusCode::CREATED);
    let too_much = voucher(demo::POOR, 1_000_000);
    assert_eq!(world.post(&world.shop, "/vouchers", &too_much).await, StatusCode::CONFLICT);
    assert_eq!(world.post(&world.shop, "/vouchers", &voucher("ada", 0)).await, StatusCode::BAD_REQUEST);
    let mailed = async {
        loop {
            let report = world.settled(&BTreeSet::new()).await;
            if report.missing == 0 {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let report = tokio::time::timeout(Duration::from_secs(20), mailed).await.unwrap();
    assert_eq!((report.vouchers, report.letters), (1, 1));
    world.close().await;
}

#[tokio::test]
async fn bad_orders_are_refused() {
    let world = World::open().await;
    let nobody = order("mallory", &[("map", 1)]);
    let many = order("ada", &[("map", 1); 21]);
    for bad in [
        order("ada", &[]),
        many,
        order("ada", &[("map", 0)]),
        order("ada", &[("map", i64::MAX)]),
        order("ada", &[("unicorn", 1)]),
        nobody,
    ] {
        assert_eq!(world.order(&bad).await, StatusCode::BAD_REQUEST, "{bad:?}");
    }
    assert_eq!(world.settled(&BTreeSet::new()).await.lines, 0);
    world.close().await;
}
