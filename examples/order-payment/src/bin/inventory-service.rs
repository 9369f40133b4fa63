//! The inventory service as a process of its own: `inventory-service --help`.

use order_payment::services::{Kind, cli};

fn main() -> anyhow::Result<()> {
    cli::main(Kind::Inventory)
}
