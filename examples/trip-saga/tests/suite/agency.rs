//! The four services in this process, with a coordinator for tests.

use std::time::Duration;

use reqwest::StatusCode;
use trip_saga::agency::{Answer, NewTrip, Outcome};
use trip_saga::services::{Kind, Options, Running, start};
use trip_saga::{Report, check_invariants};
use unanimity_testing::TestCoordinator;
use uuid::Uuid;

/// Five seats on the scarce flight, five of the scarce cars, little money for gus.
const DEMO_TRIPS: u32 = 20;

struct World {
    coordinator: TestCoordinator,
    services: Vec<Running>,
    databases: [String; 4],
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl World {
    async fn open() -> Self {
        let coordinator = TestCoordinator::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let databases =
            Kind::ALL.map(|kind| format!("sqlite://{}", directory.path().join(kind.name()).display()));
        let mut services = Vec::new();
        for (kind, database) in Kind::ALL.into_iter().zip(&databases) {
            let options = Options { demo_trips: DEMO_TRIPS, ..Options::new(coordinator.url(), database) };
            services.push(start(kind, &options).await.unwrap());
        }
        Self { coordinator, services, databases, http: reqwest::Client::new(), _directory: directory }
    }

    fn trips_url(&self) -> String {
        format!("{}/trips", self.services[0].url())
    }

    async fn post(&self, trip: &NewTrip) -> (StatusCode, Answer) {
        let answer = self.http.post(self.trips_url()).json(trip).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn get(&self, id: Uuid) -> Answer {
        let answer = self.http.get(format!("{}/{id}", self.trips_url())).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn cancel(&self, id: Uuid) -> Answer {
        let answer = self.http.post(format!("{}/{id}/cancel", self.trips_url())).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// What the databases say when nothing is under way any more.
    async fn settled(&self) -> Report {
        for _ in 0..400 {
            let report = check_invariants(self.databases.each_ref().map(String::as_str)).await.unwrap();
            assert!(report.held(), "{report:?}");
            if report.under_way.is_empty() {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not settled");
    }

    async fn close(self) {
        for service in self.services {
            service.shutdown().await;
        }
        self.coordinator.shutdown().await;
    }
}

fn trip(customer: &str, flight: &str, car: &str) -> NewTrip {
    NewTrip {
        id: Some(Uuid::new_v4()),
        customer: customer.into(),
        flight: flight.into(),
        hotel: "garden".into(),
        car: car.into(),
    }
}

#[tokio::test]
async fn a_trip_has_a_seat_a_room_a_car_and_a_ticket() {
    let world = World::open().await;
    let (status, answer) = world.post(&trip("ada", "FRA-LIS", "small")).await;
    assert_eq!((status, answer.outcome), (StatusCode::CREATED, Outcome::Booked), "{answer:?}");
    let booked = answer.booked.unwrap();
    assert_eq!((booked.seat, booked.room, booked.car), (1, 1, 1));
    let report = world.settled().await;
    assert_eq!((report.complete, report.compensated, report.paid), (1, 0, 18_900 + 24_000 + 9_900));
    world.close().await;
}

#[tokio::test]
async fn h2_a_refusal_at_the_first_step_leaves_nothing_to_undo() {
    let world = World::open().await;
    let all = (0..12).map(|_| trip("ada", "FRA-OSL", "small")).collect::<Vec<_>>();
    let all = futures::future::join_all(all.iter().map(|trip| world.post(trip))).await;
    let booked = all.iter().filter(|(_, answer)| answer.outcome == Outcome::Booked).count();
    assert_eq!(i64::try_from(booked).unwrap(), trip_saga::world::capacity("FRA-OSL", DEMO_TRIPS));
    let refused = all.iter().find(|(status, _)| *status == StatusCode::CONFLICT).unwrap();
    assert_eq!(refused.1.reason.as_deref(), Some("sold out: FRA-OSL"));
    let report = world.settled().await;
    assert_eq!((report.complete, report.nothing, report.compensated), (booked, 12 - booked, 0));
    world.close().await;
}

#[tokio::test]
async fn h14_a_refused_charge_gives_everything_back() {
    let world = World::open().await;
    let (status, answer) = world.post(&trip("ivo", "FRA-LIS", "estate")).await;
    assert_eq!((status, answer.outcome), (StatusCode::CONFLICT, Outcome::TurnedBack));
    assert_eq!(answer.reason.as_deref(), Some("not enough money: ivo"));
    let report = world.settled().await;
    assert_eq!((report.complete, report.compensated, report.paid), (0, 1, 0));
    world.close().await;
}

#[tokio::test]
async fn the_same_trip_twice_is_booked_once() {
    let world = World::open().await;
    let trip = trip("ada", "FRA-LIS", "small");
    let (_, first) = world.post(&trip).await;
    world.settled().await;
    let (status, second) = world.post(&trip).await;
    assert_eq!((status, &second), (StatusCode::CREATED, &first));
    assert_eq!(world.get(trip.id.unwrap()).await.outcome, Outcome::Booked);
    let report = world.settled().await;
    assert_eq!((report.complete, report.paid), (1, 52_800));
    // The same id is not another trip.
    let other = NewTrip { hotel: "harbour".into(), ..trip };
    let answer = world.http.post(world.trips_url()).json(&other).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    world.close().await;
}

#[tokio::test]
async fn a_cancelled_trip_stays_cancelled_and_a_booked_one_booked() {
    let world = World::open().await;
    let never = trip("ada", "FRA-LIS", "small");
    // The cancellation overtakes the trip.
    assert_eq!(world.cancel(never.id.unwrap()).await.outcome, Outcome::TurnedBack);
    assert_eq!(world.post(&never).await.1.outcome, Outcome::TurnedBack);
    let booked = trip("ben", "FRA-LIS", "small");
    assert_eq!(world.post(&booked).await.1.outcome, Outcome::Booked);
    assert_eq!(world.cancel(booked.id.unwrap()).await.outcome, Outcome::Booked);
    let report = world.settled().await;
    assert_eq!((report.complete, report.nothing), (1, 1));
    world.close().await;
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let world = World::open().await;
    for (flight, car) in [("FRA-XXX", "small"), ("FRA-LIS", "tank"), ("", "small")] {
        let answer = world.http.post(world.trips_url()).json(&trip("ada", flight, car)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{flight} {car}");
    }
    let unknown = world.http.get(format!("{}/{}", world.trips_url(), Uuid::new_v4())).send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    world.close().await;
}
