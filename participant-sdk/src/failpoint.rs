//! Where Unanimity's own crash tests let a participant die. Without the feature `failpoints` this does nothing.
//!
//! Names and meaning: `unanimity_failpoints::SDK`.

#[cfg(feature = "failpoints")]
pub(crate) use unanimity_failpoints::reach;

/// Comes to a point of this name.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_point: &str) {}
