//! Settings of a database that lose what it acknowledged.

use std::fmt;

/// A setting of the participant's database that can lose what was acknowledged, or that will hurt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Durability {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value now.
    pub value: String,
    /// What it does, and what to set instead.
    pub advice: &'static str,
    /// Whether an acknowledged try or vote can be lost; otherwise it only hurts.
    pub loses_data: bool,
}

impl Durability {
    pub(crate) fn loses(setting: &'static str, value: impl Into<String>, advice: &'static str) -> Self {
        Self { setting, value: value.into(), advice, loses_data: true }
    }

    pub(crate) fn hurts(setting: &'static str, value: impl Into<String>, advice: &'static str) -> Self {
        Self { setting, value: value.into(), advice, loses_data: false }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.setting, self.value, self.advice)
    }
}
