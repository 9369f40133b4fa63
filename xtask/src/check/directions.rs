//! Who may depend on whom: `types ← core ← coordinator`, `types ← proto ← {coordinator, sdk}`,
//! `{coordinator, sdk} ← {testing, examples, integration-tests}`.
//!
//! Read from `cargo metadata`, so a dependency is found however it is written.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

pub(super) const REMEDY: &str = "move the code to the crate that may have the dependency (ARCHITECTURE.md, the map of \
the crates); a new crate gets its rule in xtask/src/check/directions.rs";

/// What one crate may depend on.
struct Rule {
    package: &'static str,
    /// Crates of this workspace that it may use.
    ours: &'static [&'static str],
    /// Further ones for its tests.
    ours_in_tests: &'static [&'static str],
    others: Others,
}

/// What a crate may use from outside of the workspace, its tests apart.
enum Others {
    /// Anything that deny.toml lets in.
    Any,
    /// These alone.
    Only(&'static [&'static str]),
    /// Anything but these.
    Not(&'static [&'static str]),
}

const TYPES: &str = "unanimity-types";
const PROTO: &str = "unanimity-proto";
const CORE: &str = "unanimity-core";
const COORDINATOR: &str = "unanimity-coordinator";
const SDK: &str = "unanimity-sdk";
const BENCH: &str = "unanimity-bench";
const TESTING: &str = "unanimity-testing";
const FAILPOINTS: &str = "unanimity-failpoints";
const DATABASES: &str = "unanimity-test-databases";

const RULES: &[Rule] = &[
    Rule { package: TYPES, ours: &[], ours_in_tests: &[], others: Others::Not(&["tokio", "tonic", "sqlx"]) },
    // Pure: no runtime, no I/O, no clock, no randomness can be had from these.
    Rule { package: CORE, ours: &[TYPES], ours_in_tests: &[], others: Others::Only(&["bytes", "thiserror"]) },
    Rule { package: PROTO, ours: &[TYPES], ours_in_tests: &[], others: Others::Not(&["sqlx"]) },
    Rule {
        package: COORDINATOR,
        // The bench for its command line alone, so that whoever has the binary can measure it: it talks to a
        // running coordinator as every other client does, and brings the SDK along.
        ours: &[TYPES, PROTO, CORE, FAILPOINTS, BENCH],
        ours_in_tests: &[],
        others: Others::Any,
    },
    Rule { package: SDK, ours: &[TYPES, PROTO, FAILPOINTS], ours_in_tests: &[TESTING], others: Others::Any },
    // A client like others; it never sees the coordinator that it measures, its tests apart.
    Rule { package: BENCH, ours: &[TYPES, PROTO, SDK], ours_in_tests: &[COORDINATOR], others: Others::Any },
    // Servers for tests and examples: knows nothing of Unanimity.
    Rule { package: DATABASES, ours: &[], ours_in_tests: &[], others: Others::Any },
    // What comes from outside can come anywhere.
    Rule {
        package: "unanimity-fuzz",
        ours: &[],
        ours_in_tests: &[TYPES, PROTO, CORE, COORDINATOR, SDK],
        others: Others::Any,
    },
    // The simulation runs the engine itself.
    Rule {
        package: "unanimity-simulation",
        ours: &[TYPES, CORE, COORDINATOR],
        ours_in_tests: &[],
        others: Others::Any,
    },
    // Whole nodes and the SDK over a simulated network.
    Rule {
        package: "unanimity-turmoil",
        ours: &[TYPES, COORDINATOR, SDK],
        ours_in_tests: &[],
        others: Others::Any,
    },
    // The models drive the core itself.
    Rule { package: "unanimity-model", ours: &[TYPES, CORE], ours_in_tests: &[], others: Others::Any },
    Rule { package: FAILPOINTS, ours: &[], ours_in_tests: &[], others: Others::Only(&[]) },
    Rule {
        package: TESTING,
        ours: &[TYPES, PROTO, COORDINATOR, SDK],
        ours_in_tests: &[],
        others: Others::Any,
    },
    Rule {
        package: "order-payment",
        ours: &[TYPES, COORDINATOR, SDK],
        ours_in_tests: &[TESTING],
        others: Others::Any,
    },
    Rule {
        package: "trip-saga",
        ours: &[TYPES, COORDINATOR, SDK],
        ours_in_tests: &[TESTING],
        others: Others::Any,
    },
    Rule {
        package: "bank-transfer",
        ours: &[TYPES, COORDINATOR, SDK, DATABASES],
        ours_in_tests: &[TESTING],
        others: Others::Any,
    },
    Rule {
        package: "outbox-example",
        ours: &[TYPES, COORDINATOR, SDK],
        ours_in_tests: &[TESTING],
        others: Others::Any,
    },
    Rule {
        package: "embedded",
        ours: &[TYPES, COORDINATOR, SDK],
        ours_in_tests: &[TESTING],
        others: Others::Any,
    },
    Rule {
        package: "integration-tests",
        ours: &[
            TYPES,
            PROTO,
            COORDINATOR,
            SDK,
            TESTING,
            FAILPOINTS,
            DATABASES,
            "order-payment",
            "trip-saga",
            "bank-transfer",
            "outbox-example",
            "embedded",
        ],
        ours_in_tests: &[],
        others: Others::Any,
    },
    // The chores run where nothing else compiles.
    Rule {
        package: "xtask",
        ours: &[],
        ours_in_tests: &[],
        others: Others::Not(&["tokio", "tonic", "sqlx"]),
    },
];

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(violations(&metadata(root)?))
}

/// `cargo metadata` of the workspace's own crates.
pub(crate) fn metadata(root: &Path) -> anyhow::Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// An array in the metadata; empty where it is missing.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn violations(metadata: &Value) -> Vec<String> {
    let packages: Vec<&str> =
        items(metadata, "packages").filter_map(|package| package["name"].as_str()).collect();
    let mut problems = Vec::new();
    if packages.is_empty() {
        problems.push("cargo metadata names no package".to_owned());
    }
    for package in items(metadata, "packages") {
        let name = package["name"].as_str().unwrap_or("?");
        let Some(rule) = RULES.iter().find(|rule| rule.package == name) else {
            problems.push(format!("{name}: no rule says what this crate may depend on"));
            continue;
        };
        for dependency in items(package, "dependencies") {
            let other = dependency["name"].as_str().unwrap_or("?");
            let in_tests = dependency["kind"] == "dev";
            let allowed = if packages.contains(&other) {
                rule.ours.contains(&other) || (in_tests && rule.ours_in_tests.contains(&other))
            } else {
                in_tests
                    || match rule.others {
                        Others::Any => true,
                        Others::Only(list) => list.contains(&other),
                        Others::Not(list) => !list.contains(&other),
                    }
            };
            if !allowed {
                let where_ = dependency["kind"].as_str().map(|kind| format!("{kind}-")).unwrap_or_default();
                problems.push(format!("{name} has {other} among its {where_}dependencies and must not"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of two crates, where `from` depends on `to`.
    fn workspace(from: &str, to: &str, kind: &Value) -> Value {
        let dependency = json!({"name": to, "kind": kind});
        json!({"packages": [{"name": from, "dependencies": [dependency]}, {"name": COORDINATOR, "dependencies": []},
            {"name": TESTING, "dependencies": []}, {"name": CORE, "dependencies": []}]})
    }

    #[test]
    fn the_sdk_never_sees_core_or_coordinator() {
        for to in [CORE, COORDINATOR] {
            for kind in [Value::Null, json!("build"), json!("dev")] {
                let problems = violations(&workspace(SDK, to, &kind));
                assert_eq!(problems.len(), 1, "{to} {kind}");
                assert!(problems[0].starts_with("unanimity-sdk has "), "{problems:?}");
            }
        }
    }

    #[test]
    fn only_the_tests_of_the_sdk_see_the_testing_crate() {
        assert_eq!(violations(&workspace(SDK, TESTING, &json!("dev"))), Vec::<String>::new());
        assert_eq!(violations(&workspace(SDK, TESTING, &Value::Null)).len(), 1);
    }

    #[test]
    fn core_has_nothing_but_what_is_listed() {
        assert_eq!(violations(&workspace(CORE, "bytes", &Value::Null)), Vec::<String>::new());
        assert_eq!(violations(&workspace(CORE, "proptest", &json!("dev"))), Vec::<String>::new());
        for outsider in ["tokio", "fastrand", "serde"] {
            assert_eq!(violations(&workspace(CORE, outsider, &Value::Null)).len(), 1, "{outsider}");
        }
    }

    #[test]
    fn a_crate_without_a_rule_is_refused() {
        let problems = violations(&workspace("newcomer", "bytes", &Value::Null));
        assert_eq!(problems, ["newcomer: no rule says what this crate may depend on"]);
    }

    #[test]
    fn metadata_without_packages_does_not_pass() {
        assert_eq!(violations(&json!({})).len(), 1);
    }

    #[test]
    fn this_workspace_can_be_read() {
        let metadata = metadata(&crate::files::root()).unwrap();
        let names: Vec<_> =
            items(&metadata, "packages").filter_map(|package| package["name"].as_str()).collect();
        assert!(names.contains(&CORE) && names.contains(&"xtask"), "{names:?}");
    }
}
