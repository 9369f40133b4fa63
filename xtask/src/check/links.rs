//! Relative links between the repository's pages lead to files that exist, and to headings that exist.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::files;

pub(super) const REMEDY: &str = "mend the link; links are relative to the page that they are on";

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    let files = files::all(root)?;
    let pages = files::read(root, |file| file.ends_with(".md"))?;
    Ok(violations(&pages, &files))
}

fn violations(pages: &[(String, String)], files: &[String]) -> Vec<String> {
    // A link may lead to a folder as well.
    let existing: BTreeSet<PathBuf> =
        files.iter().flat_map(|file| Path::new(file).ancestors().map(Path::to_owned)).collect();
    let mut problems = Vec::new();
    for (page, text) in pages {
        for (line, target) in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { Some(PathBuf::from(page)) } else { resolve(page, path) };
            let Some(file) = file.filter(|file| existing.contains(file)) else {
                problems.push(format!("{page}:{line} leads to {target}, which does not exist"));
                continue;
            };
            let aim = pages.iter().find(|(name, _)| Path::new(name) == file);
            if !heading.is_empty() && aim.is_some_and(|(_, text)| !headings(text).contains(heading)) {
                problems.push(format!("{page}:{line} leads to {target}, and there is no such heading"));
            }
        }
    }
    problems
}

/// The path from the root; none where the link leaves the repository.
fn resolve(page: &str, link: &str) -> Option<PathBuf> {
    let mut path = Path::new(page).parent().unwrap_or(Path::new("")).to_owned();
    if link.starts_with('/') {
        path = PathBuf::new();
    }
    for part in Path::new(link.trim_start_matches('/')).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(path)
}

/// Line numbers and targets of `[text](target)`, `[name]: target`, `src="target"` and `href="target"`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let line = without_code(line);
        for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in line.match_indices(opening) {
                let rest = &line[at + opening.len()..];
                let target = rest.split([closing, ' ']).next().unwrap_or_default();
                found.push((number, target.trim_matches(['<', '>']).to_owned()));
            }
        }
        if let Some((name, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "))
            && !name.contains(']')
        {
            found.push((number, target.split(' ').next().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// The anchors of a page's headings: lower case, spaces as `-`, other signs dropped, repetitions numbered.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut numbered = anchor.clone();
        let mut repetition = 0;
        while !anchors.insert(numbered.clone()) {
            repetition += 1;
            numbered = format!("{anchor}-{repetition}");
        }
    }
    anchors
}

/// The numbered lines that are not in a fenced block.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The line without what stands between back-ticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(page: &str, text: &str) -> Vec<String> {
        let files = ["README.md", "docs/a.md", "docs/pictures/b.png"].map(str::to_owned);
        let other = ("docs/a.md".to_owned(), "# One heading: here\n## Same\n## Same\n".to_owned());
        violations(&[(page.to_owned(), text.to_owned()), other], &files)
    }

    #[test]
    fn links_to_files_folders_headings_and_hosts_pass() {
        let text = "[a](docs/a.md) [b](docs/pictures) [c](docs/a.md#one-heading-here) [d](https://example.org/x)\n\
            [e](docs/a.md#same-1) ![p](docs/pictures/b.png \"title\") <img src=\"docs/pictures/b.png\">\n[f]: docs/a.md\n";
        assert_eq!(problems("README.md", text), Vec::<String>::new());
        assert_eq!(
            problems("docs/c.md", "[up](../README.md) [by](a.md) [root](/README.md)"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_form_of_a_broken_link_is_found() {
        for link in
            ["[a](gone.md)", "![a](gone.png)", "<img src=\"gone.png\">", "[a]: gone.md", "[a](../../out.md)"]
        {
            assert_eq!(problems("docs/c.md", &format!("text\n{link}\n")).len(), 1, "{link}");
        }
        let missing = problems("README.md", "\n[a](docs/a.md#gone)");
        assert_eq!(missing, ["README.md:2 leads to docs/a.md#gone, and there is no such heading"]);
        assert_eq!(problems("README.md", "# Here\n[a](#here) [b](#there)").len(), 1);
    }

    #[test]
    fn code_is_not_read_as_links() {
        assert_eq!(
            problems("README.md", "```\n[a](gone.md)\n```\nand `x[a](gone.md)` too"),
            Vec::<String>::new()
        );
    }
}
