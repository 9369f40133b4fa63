//! Failpoints are for tests: nothing that a user builds may have them.
//!
//! Read from `cargo metadata`: the crate of the points is an optional dependency, no feature that is on by default brings
//! it in, and only dev-dependencies ask for the feature that does.

use std::path::Path;

use serde_json::Value;

use super::directions::{items, metadata};

pub(super) const REMEDY: &str = "ask for failpoints among the dev-dependencies of the tests that need them, nowhere else; \
a binary of users that can be told to die is a hole";

const CRATE: &str = "unanimity-failpoints";
const FEATURE: &str = "failpoints";

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(violations(&metadata(root)?))
}

fn violations(metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for package in items(metadata, "packages") {
        let name = package["name"].as_str().unwrap_or("?");
        for dependency in items(package, "dependencies").filter(|dependency| dependency["kind"] != "dev") {
            let other = dependency["name"].as_str().unwrap_or("?");
            if other == CRATE && dependency["optional"] != true {
                problems.push(format!("{name} always has {CRATE}"));
            }
            if items(dependency, "features").any(|feature| feature == FEATURE) {
                problems.push(format!("{name} asks {other} for its feature {FEATURE} outside of its tests"));
            }
        }
        let features = package["features"].as_object();
        for (feature, brings) in features.into_iter().flatten().filter(|(feature, _)| *feature != FEATURE) {
            let brings: Vec<&str> =
                brings.as_array().into_iter().flatten().filter_map(|brought| brought.as_str()).collect();
            if brings.iter().any(|brought| brought.contains(FEATURE)) {
                problems.push(format!("{name}: the feature {feature} brings failpoints in"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(dependency: &Value, features: &Value) -> Vec<String> {
        violations(&json!({"packages": [{"name": "p", "dependencies": [dependency], "features": features}]}))
    }

    #[test]
    fn only_the_feature_brings_them_in() {
        let optional = json!({"name": CRATE, "kind": null, "optional": true, "features": []});
        assert_eq!(
            package(&optional, &json!({"failpoints": ["dep:unanimity-failpoints"]})),
            Vec::<String>::new()
        );
        assert_eq!(package(&optional, &json!({"default": ["failpoints"]})).len(), 1);
        assert_eq!(package(&optional, &json!({"other": ["dep:unanimity-failpoints"]})).len(), 1);
        let always = json!({"name": CRATE, "kind": null, "optional": false, "features": []});
        assert_eq!(package(&always, &json!({})).len(), 1);
    }

    #[test]
    fn only_tests_ask_for_the_feature() {
        for (kind, found) in [(json!("dev"), 0), (Value::Null, 1), (json!("build"), 1)] {
            let asks =
                json!({"name": "unanimity-sdk", "kind": kind, "optional": false, "features": ["failpoints"]});
            assert_eq!(package(&asks, &json!({})).len(), found);
        }
    }
}
