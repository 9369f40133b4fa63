//! Words that mean "not finished": what is open belongs into the issue tracker, where it is seen.

use std::path::Path;

use crate::files;

pub(super) const REMEDY: &str = "finish it, or take it out and file an issue";

/// Put together, so that this file does not find itself.
const WORDS: &[&str] =
    &[concat!("to", "do!"), concat!("unimple", "mented!"), concat!("#[ig", "nore"), concat!("FIX", "ME")];

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(violations(&files::read(root, |file| file.ends_with(".rs"))?))
}

fn violations(sources: &[(String, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in sources {
        for (number, line) in text.lines().enumerate() {
            for word in WORDS.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{path}:{} has {word}", number + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_found_where_it_stands() {
        for word in WORDS {
            let text = format!("fn f() {{\n    {word}\n}}\n");
            assert_eq!(violations(&[("a.rs".to_owned(), text)]), [format!("a.rs:2 has {word}")]);
        }
    }

    #[test]
    fn finished_code_passes() {
        assert!(violations(&[("a.rs".to_owned(), "fn todo() {}".to_owned())]).is_empty());
    }
}
