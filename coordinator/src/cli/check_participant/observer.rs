//! How often an effect happened, by a number that the participant shows.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Url};
use serde_json::Value;

use super::caller;

/// Digits after the point that are told apart: more than any currency has.
const FRACTION_DIGITS: usize = 9;
/// A number, not a document.
const BODY_BYTES_MAX: usize = 4096;

/// Reads the number.
#[derive(Debug)]
pub(super) struct Observer {
    client: Client,
    url: Url,
}

impl Observer {
    /// # Errors
    /// The system gives no HTTP client.
    pub(super) fn new(url: Url, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self { client: caller::client(timeout)?, url })
    }

    /// The number now, in units of 10^-9.
    ///
    /// # Errors
    /// The URL does not answer, or not with a number.
    pub(super) async fn look(&self) -> anyhow::Result<i128> {
        let look = async {
            let mut response = self.client.get(self.url.clone()).send().await?.error_for_status()?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > BODY_BYTES_MAX {
                    bail!("the answer is longer than {BODY_BYTES_MAX} bytes");
                }
            }
            let text = match serde_json::from_slice(&body) {
                Ok(Value::Number(number)) => number.to_string(),
                Ok(Value::String(text)) => text,
                _ => bail!(
                    "the answer is no JSON number and no JSON string: {:?}",
                    String::from_utf8_lossy(&body)
                ),
            };
            number(text.trim()).with_context(|| format!("{text:?} is no decimal number"))
        };
        look.await.with_context(|| format!("--observe {}", self.url))
    }
}

/// A decimal number, exactly: amounts of money must not be rounded.
fn number(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 20
        || fraction.len() > FRACTION_DIGITS
        || !is_decimal(whole)
        || !is_decimal(fraction)
    {
        return None;
    }
    format!("{whole}{fraction:0<FRACTION_DIGITS$}").parse::<i128>().ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        assert_eq!(number("7"), Some(7_000_000_000));
        assert_eq!(number("-0.10"), Some(-100_000_000));
        assert_eq!(number("12.345678901"), Some(12_345_678_901));
        for text in ["", ".5", "-", "1e3", "1.2.3", "seven", "+1", "1.2345678901", "123456789012345678901"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
