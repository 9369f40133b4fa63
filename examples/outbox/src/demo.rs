//! The goods and the customers of the story.

/// Name and price in cents.
pub const PRODUCTS: [(&str, i64); 5] =
    [("atlas", 3_900), ("map", 1_200), ("compass", 2_500), ("lantern", 1_800), (NO_SHELF, 9_900)];

/// The product that the shop sells and the warehouse has no shelf for.
pub const NO_SHELF: &str = "globe";

/// The customer whose credit does not go far.
pub const POOR: &str = "gus";

/// How many cents customers may owe: far more than a story's orders cost.
const CREDIT: i64 = 1_000_000_000;
/// The same of the poor one: a few orders.
const LITTLE_CREDIT: i64 = 30_000;

const NAMES: [&str; 8] = ["ada", "ben", "cleo", "dan", "eve", "finn", POOR, "hanna"];

/// The names of so many customers.
pub fn customers(count: u32) -> impl Iterator<Item = String> {
    let named = NAMES.into_iter().map(str::to_owned);
    named
        .chain((9..=count).map(|n| format!("customer-{n}")))
        .take(usize::try_from(count).unwrap_or(usize::MAX))
}

/// How many cents a customer may owe.
#[must_use]
pub fn credit(customer: &str) -> i64 {
    if customer == POOR { LITTLE_CREDIT } else { CREDIT }
}

/// What a product costs, in cents; `None` if the shop does not sell it.
#[must_use]
pub fn price(sku: &str) -> Option<i64> {
    PRODUCTS.iter().find(|(name, _)| *name == sku).map(|(_, cents)| *cents)
}
