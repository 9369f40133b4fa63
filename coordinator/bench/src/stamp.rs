//! What a branch's payload says to the bench's own participants.
//!
//! The participants run in another process and must know when a transaction was to begin, to tell how
//! long it took until its last operation came. Nobody looks that up: it stands in the payload, which comes
//! along anyway, or, where the payload is too small for it, in the transaction's name.

use bytes::Bytes;

/// The bytes of a stamp: 14 digits and what is to happen.
const STAMP_BYTES: usize = 15;
/// Of the quotes around it as well: from here on a payload carries it.
pub(crate) const PAYLOAD_BYTES_MIN: usize = STAMP_BYTES + 2;

/// When a transaction was to begin, and what its participant is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The intended start, in microseconds since the epoch.
    pub(crate) intended_us: u64,
    /// The step refuses.
    pub(crate) refuse: bool,
}

impl Stamp {
    fn text(self) -> String {
        // 14 hexadecimal digits of microseconds last until the year 4253.
        format!("{:014x}{}", self.intended_us & 0x00ff_ffff_ffff_ffff, if self.refuse { 'r' } else { 'd' })
    }

    /// Whether a payload of this size carries it.
    pub(crate) const fn fits(payload_bytes: usize) -> bool {
        payload_bytes >= PAYLOAD_BYTES_MIN
    }

    /// A payload of exactly so many bytes of JSON, with the stamp if there is room. None: no payload.
    pub(crate) fn payload(self, bytes: usize) -> Bytes {
        match bytes {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"7"),
            _ => {
                let mut text = Vec::with_capacity(bytes);
                text.push(b'"');
                if Self::fits(bytes) {
                    text.extend_from_slice(self.text().as_bytes());
                }
                text.resize(bytes - 1, b'x');
                text.push(b'"');
                Bytes::from(text)
            }
        }
    }

    /// The transaction's name: with the stamp, where the payload has no room.
    pub(crate) fn name(self, payload_bytes: usize) -> String {
        if Self::fits(payload_bytes) { "bench".to_owned() } else { format!("bench {}", self.text()) }
    }

    /// Reads it, from the payload or else from the name.
    pub(crate) fn read(payload: &[u8], name: &str) -> Option<Self> {
        let in_payload = payload.strip_prefix(b"\"").unwrap_or(payload);
        Self::parse(in_payload).or_else(|| Self::parse(name.strip_prefix("bench ")?.as_bytes()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..STAMP_BYTES)?).ok()?;
        let (digits, end) = text.split_at_checked(STAMP_BYTES - 1)?;
        let intended_us = u64::from_str_radix(digits, 16).ok()?;
        let refuse = match end {
            "r" => true,
            "d" => false,
            _ => return None,
        };
        Some(Self { intended_us, refuse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_are_json() {
        let stamp = Stamp { intended_us: 1_800_000_000_123_456, refuse: true };
        for bytes in [0, 1, 2, 16, 17, 64, 262_144] {
            let payload = stamp.payload(bytes);
            assert_eq!(payload.len(), bytes);
            let json = serde_json::from_slice::<serde_json::Value>(&payload);
            assert_eq!(json.is_ok(), bytes > 0, "{bytes}");
            assert_eq!(Stamp::read(&payload, &stamp.name(bytes)), Some(stamp), "{bytes}");
            // Once is enough.
            assert_eq!(stamp.name(bytes) == "bench", bytes >= 17, "{bytes}");
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for text in ["", "\"x\"", "\"00000000000000q\"", "\"zzzzzzzzzzzzzzd\"", "\"ää ääää ääää\""]
        {
            assert_eq!(Stamp::read(text.as_bytes(), "order 7"), None, "{text}");
        }
    }
}
