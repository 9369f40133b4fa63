//! Where one can go, and who goes.

/// Flights, with the price of a seat in cents.
pub const FLIGHTS: [(&str, i64); 3] = [("FRA-LIS", 18_900), ("FRA-ATH", 22_900), ("FRA-OSL", 14_900)];

/// The flight with too few seats.
pub const SCARCE_FLIGHT: &str = "FRA-OSL";

/// Hotels, with the price of a room in cents.
pub const HOTELS: [(&str, i64); 3] = [("garden", 24_000), ("harbour", 31_000), (STRICT_HOTEL, 52_000)];

/// The hotel that takes no cancellations, until somebody talks to its manager.
pub const STRICT_HOTEL: &str = "castle";

/// Classes of cars, with the price in cents.
pub const CARS: [(&str, i64); 3] = [("small", 9_900), ("estate", 15_900), ("van", 21_900)];

/// The class of which there are too few.
pub const SCARCE_CAR: &str = "van";

/// Who travels.
pub const CUSTOMERS: [&str; 8] = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hanna"];

/// The customer who has too little money.
pub const POOR: &str = "gus";

/// A customer without any.
pub const BROKE: &str = "ivo";

/// How many seats, rooms and cars a name has, if about so many trips are booked.
#[must_use]
pub fn capacity(name: &str, trips: u32) -> i64 {
    // Each flight and each class of cars is wanted by a third of the trips.
    let wanted = i64::from(trips) / 3;
    match name {
        SCARCE_FLIGHT | SCARCE_CAR => wanted * 2 / 3 + 1,
        // Rooms of two hotels only; all of it twice, since trips that turn back hold them for a while.
        _ => wanted * 3 + 10,
    }
}

/// How many cents a customer has at the beginning, if about so many trips are booked.
#[must_use]
pub fn balance(customer: &str, trips: u32) -> i64 {
    // Each customer books an eighth of the trips, of about 62,000 cents each.
    let wanted = i64::from(trips) * 62_000 / 8;
    match customer {
        BROKE => 0,
        POOR => wanted / 3,
        _ => wanted * 3 + 500_000,
    }
}

/// A price in one of the lists; `None` if it is not there.
#[must_use]
pub fn price(list: &[(&str, i64)], name: &str) -> Option<i64> {
    list.iter().find(|(listed, _)| *listed == name).map(|(_, cents)| *cents)
}
