//! Names that people give: of transactions, participants, operations, branches.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// A name: 1 to 128 bytes of text without control characters, not all white space.
///
/// U+0000 and its like cannot be stored by every database (protocol M5), and invisible
/// characters make two names look the same, so they are refused where a name enters. A clone shares the
/// text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// A text that cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or nothing but white space.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`Limits::NAME_BYTES_MAX`].
    #[error("a name has at most 128 bytes, this one has {0}")]
    TooLong(usize),
    /// A control or invisible formatting character.
    #[error("a name must not contain control characters (found U+{0:04X})")]
    Control(u32),
}

impl Name {
    /// Checks and wraps a text.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with it.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        if text.trim().is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Limits::NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| is_hostile(*c)) {
            return Err(NameError::Control(u32::from(bad)));
        }
        Ok(Self(text.into()))
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, bidirectional overrides and zero-width characters.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for text in
            ["order", "place order", "Bestellung-äöü", "注文", "inventory:sku-7", "<b>bold</b>", "'; --"]
        {
            assert_eq!(Name::new(text).expect("valid").as_str(), text);
        }
    }

    #[test]
    fn empty_long_and_invisible_names_are_refused() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new(" \t "), Err(NameError::Empty));
        assert_eq!(Name::new("n".repeat(129)), Err(NameError::TooLong(129)));
        assert_eq!(Name::new("a\0b"), Err(NameError::Control(0)));
        assert_eq!(Name::new("a\nb"), Err(NameError::Control(10)));
        assert_eq!(Name::new("a\u{202E}b"), Err(NameError::Control(0x202E)));
        assert_eq!(Name::new("a\u{200B}b"), Err(NameError::Control(0x200B)));
    }
}
