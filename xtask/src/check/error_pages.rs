//! Every error code has its page `docs/errors/<code>.md`, and every page its code.

use std::path::Path;

use anyhow::Context;

use crate::files;

pub(super) const REMEDY: &str = "write docs/errors/<code>.md: what it means, what causes it, what to do";

const CODES: &str = "proto/types/src/code.rs";
const PAGES: &str = "docs/errors/";

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    let source = std::fs::read_to_string(root.join(CODES)).context(CODES)?;
    Ok(violations(&codes(&source), &files::all(root)?))
}

fn violations(codes: &[&str], files: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    if codes.is_empty() {
        problems.push(format!("no codes found in {CODES}: this check no longer understands it"));
    }
    for code in codes {
        let page = format!("{PAGES}{code}.md");
        if !files.contains(&page) {
            problems.push(format!("the code {code} has no page {page}"));
        }
    }
    for file in files {
        let page = file.strip_prefix(PAGES).and_then(|name| name.strip_suffix(".md"));
        if let Some(page) = page
            && page != "README"
            && !codes.contains(&page)
        {
            problems.push(format!("the page {file} has no code in {CODES}"));
        }
    }
    problems
}

/// The words of the lines `Variant = "word" / status / retry,`.
fn codes(source: &str) -> Vec<&str> {
    source
        .lines()
        .filter_map(|line| {
            let (word, rest) = line.split_once(" = \"")?.1.split_once('"')?;
            rest.trim_start().starts_with('/').then_some(word)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "    /// Text.\n    InvalidXid = \"invalid_xid\" / 400 / false,\n    let a = \"b\";\n";

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_missing_page_and_a_stray_one_are_found() {
        let codes = codes(SOURCE);
        assert_eq!(codes, ["invalid_xid"]);
        assert!(
            violations(&codes, &named(&["docs/errors/invalid_xid.md", "docs/errors/README.md"])).is_empty()
        );
        assert_eq!(
            violations(&codes, &named(&[])),
            ["the code invalid_xid has no page docs/errors/invalid_xid.md"]
        );
        let stray = violations(&codes, &named(&["docs/errors/invalid_xid.md", "docs/errors/gone.md"]));
        assert_eq!(stray, ["the page docs/errors/gone.md has no code in proto/types/src/code.rs"]);
    }

    #[test]
    fn a_source_without_codes_does_not_pass() {
        assert_eq!(violations(&codes("enum ErrorCode {}"), &named(&[])).len(), 1);
    }

    #[test]
    fn the_real_source_is_understood() {
        let source = std::fs::read_to_string(files::root().join(CODES)).unwrap();
        let codes = codes(&source);
        assert!(codes.contains(&"outcome_unknown") && codes.contains(&"invalid_request"), "{codes:?}");
    }
}
