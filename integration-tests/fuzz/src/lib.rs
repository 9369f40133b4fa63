//! Fuzz targets on stable Rust: `tests/suite`. Nothing else is here.
