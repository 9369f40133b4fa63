//! The payment service as a process of its own: `payment-service --help`.

use order_payment::services::{Kind, cli};

fn main() -> anyhow::Result<()> {
    cli::main(Kind::Payment)
}
