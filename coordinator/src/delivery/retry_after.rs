//! The `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How long to wait, at most `max`; `None` if the header says nothing that we understand.
pub(super) fn parse(value: &str, now: OffsetDateTime, max: Duration) -> Option<Duration> {
    let value = value.trim();
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than a u64 holds are a long time.
        value.parse().map_or(max, Duration::from_secs)
    } else {
        // HTTP's preferred date format is the one of mail.
        let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
        Duration::try_from(date - now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_dates_and_nonsense() {
        let now = OffsetDateTime::from_unix_timestamp(1_445_412_420).expect("a date"); // 07:27:00
        let max = Duration::from_secs(300);
        for (value, wait) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("86400", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:26:00 GMT", Some(0)),
            ("Wed, 21 Oct 2099 07:26:00 GMT", Some(300)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("1.5", None),
        ] {
            assert_eq!(parse(value, now, max), wait.map(Duration::from_secs), "{value:?}");
        }
    }
}
