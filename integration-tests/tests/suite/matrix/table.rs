//! The matrix is whole: every point fires in some case, and every row of the table in docs/testing.md has its tests.

use std::collections::BTreeSet;
use std::path::Path;

use unanimity_failpoints::{COORDINATOR, SDK};

use super::{archive, c, kp, moves, o, s};

/// The rows: of the coordinator, participants with XA, TCC, sagas, messages.
const ROWS: &[(&str, u32)] = &[("C", 15), ("P", 7), ("K", 8), ("S", 9), ("O", 5)];

/// I12: a point at which nothing dies is no test of anything. Each case makes sure that its points fire.
#[test]
fn i12_every_failpoint_fires_in_some_case() {
    let coordinators =
        c::CASES.iter().chain(s::CASES).flat_map(|case| [&[case.point][..], case.again].concat());
    let participants = kp::CASES.iter().flat_map(|case| [&[case.point][..], case.again].concat());
    let senders = o::CASES.iter().flat_map(|case| [&[case.point][..], case.again].concat());
    let fired: BTreeSet<&str> = coordinators
        .chain(participants)
        .chain(senders)
        .chain(archive::POINTS.iter().chain(moves::POINTS).copied())
        .collect();
    let listed: BTreeSet<&str> = COORDINATOR.iter().chain(SDK).copied().collect();
    let never: Vec<_> = listed.difference(&fired).collect();
    let unknown: Vec<_> = fired.difference(&listed).collect();
    assert!(never.is_empty(), "nothing dies at {never:?}");
    assert!(unknown.is_empty(), "there are no points {unknown:?}");
}

/// Every test that the sources of the workspace have, by name.
fn sources(directory: &Path, into: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_row_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = String::new();
    for package in ["coordinator", "participant-sdk", "integration-tests"] {
        sources(&root.join(package), &mut all);
    }
    let page = std::fs::read_to_string(root.join("docs/testing.md")).unwrap();
    for (letter, last) in ROWS {
        for number in 1..=*last {
            let row = format!("{letter}{number}");
            let line =
                page.lines().find(|line| line.starts_with(&format!("| {row} |")) && line.contains("::"));
            let line = line.unwrap_or_else(|| panic!("docs/testing.md has no row {row}"));
            let names: Vec<&str> =
                line.split('`').skip(1).step_by(2).filter_map(|name| name.split("::").nth(1)).collect();
            assert!(!names.is_empty(), "{row} names no test");
            for name in names {
                assert!(
                    all.contains(&format!("fn {name}(")) || all.contains(&format!("fn {name}<")),
                    "{row}: there is no test {name}"
                );
                assert!(
                    format!("_{name}").contains(&format!("_{}_", row.to_lowercase())),
                    "{name} does not name {row}"
                );
            }
        }
    }
}
