//! The order service as a process of its own: `order-service --help`.

use order_payment::services::{Kind, cli};

fn main() -> anyhow::Result<()> {
    cli::main(Kind::Order)
}
