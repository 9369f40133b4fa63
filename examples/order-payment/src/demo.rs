//! The goods and the customers of the story.

/// Name and price in cents.
pub const PRODUCTS: [(&str, i64); 5] =
    [("teapot", 2_400), ("mug", 900), ("kettle", 4_900), ("strainer", 450), ("samovar", 12_900)];

/// The product of which there is too little.
pub const SCARCE: &str = "samovar";

/// Who buys.
pub const CUSTOMERS: [&str; 8] = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hanna"];

/// The customer who has too little money.
pub const POOR: &str = "gus";

/// The account that customers pay to.
pub const MERCHANT: &str = "merchant";

/// How many of one product an order takes at most.
pub const QUANTITY_MAX: i64 = 3;

/// How many of a product are there at the beginning, if about so many orders come.
#[must_use]
pub fn stock(sku: &str, orders: u32) -> i64 {
    // Each product is wanted by a fifth of the orders, two of it on average.
    let wanted = i64::from(orders) * 2 / 5;
    if sku == SCARCE { wanted / 2 } else { wanted * 2 + 10 }
}

/// How many cents a customer has at the beginning, if about so many orders come.
#[must_use]
pub fn balance(customer: &str, orders: u32) -> i64 {
    // Each customer places an eighth of the orders, of about 8,600 cents each on average.
    let wanted = i64::from(orders) * 8_600 / 8;
    if customer == POOR { wanted / 3 } else { wanted * 2 + 100_000 }
}
