//! Migrations are append-only: somebody's database has run them. `migrations/CHECKSUMS` records every file's SHA-256;
//! the check compares, `cargo xtask migrations --record` adds new files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::files;

pub(super) const REMEDY: &str = "write a new migration and take the change of the old one back; record new ones with \
`cargo xtask migrations --record`. As long as no release has a migration, its line in migrations/CHECKSUMS may be \
removed by hand and recorded anew";

const FOLDER: &str = "migrations/";
const MANIFEST: &str = "migrations/CHECKSUMS";

/// A file's path below `migrations/`, and the hex of its SHA-256.
type Sums = BTreeMap<String, String>;

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(violations(&recorded(root)?, &present(root)?))
}

/// The chore: shows the differences, or records the new files. Says whether the record is now complete and true.
pub(crate) fn run(record: bool) -> anyhow::Result<bool> {
    let root = files::root();
    let (mut sums, present) = (recorded(&root)?, present(&root)?);
    if record {
        for (file, sum) in &present {
            if !sums.contains_key(file) {
                println!("recorded {file}");
                sums.insert(file.clone(), sum.clone());
            }
        }
        std::fs::write(root.join(MANIFEST), write(&sums)).context(MANIFEST)?;
    }
    let problems = violations(&sums, &present);
    for problem in &problems {
        println!("{problem}");
    }
    println!("{} migrations, {} recorded, {} problems", present.len(), sums.len(), problems.len());
    Ok(problems.is_empty())
}

fn violations(recorded: &Sums, present: &Sums) -> Vec<String> {
    let mut problems = Vec::new();
    for (file, sum) in recorded {
        match present.get(file) {
            None => problems.push(format!("{FOLDER}{file} is recorded and gone")),
            Some(now) if now != sum => {
                problems.push(format!("{FOLDER}{file} was changed after it was recorded"));
            }
            Some(_) => {}
        }
    }
    for file in present.keys().filter(|file| !recorded.contains_key(*file)) {
        problems.push(format!("{FOLDER}{file} is not recorded"));
    }
    problems
}

fn present(root: &Path) -> anyhow::Result<Sums> {
    files::all(root)?
        .into_iter()
        .filter_map(|file| file.strip_prefix(FOLDER).filter(|name| name.ends_with(".sql")).map(str::to_owned))
        .map(|name| {
            let bytes = std::fs::read(root.join(FOLDER).join(&name)).with_context(|| name.clone())?;
            Ok((name, sum(&bytes)))
        })
        .collect()
}

fn recorded(root: &Path) -> anyhow::Result<Sums> {
    match std::fs::read_to_string(root.join(MANIFEST)) {
        Ok(text) => read(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sums::new()),
        Err(error) => Err(error).context(MANIFEST),
    }
}

/// The form of `sha256sum`, so that it can be checked without us.
fn read(text: &str) -> anyhow::Result<Sums> {
    text.lines()
        .map(|line| {
            let (sum, file) = line.split_once("  ").with_context(|| format!("{MANIFEST}: {line:?}"))?;
            Ok((file.to_owned(), sum.to_owned()))
        })
        .collect()
}

fn write(sums: &Sums) -> String {
    sums.iter().map(|(file, sum)| format!("{sum}  {file}\n")).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(entries: &[(&str, &str)]) -> Sums {
        entries.iter().map(|(file, text)| ((*file).to_owned(), sum(text.as_bytes()))).collect()
    }

    #[test]
    fn the_sum_is_sha256() {
        assert_eq!(sum(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_changed_a_removed_and_a_new_file_are_found() {
        let recorded = sums(&[("a/1.sql", "one"), ("a/2.sql", "two")]);
        assert!(violations(&recorded, &recorded).is_empty());
        let present = sums(&[("a/1.sql", "one, changed"), ("a/3.sql", "three")]);
        assert_eq!(
            violations(&recorded, &present),
            [
                "migrations/a/1.sql was changed after it was recorded",
                "migrations/a/2.sql is recorded and gone",
                "migrations/a/3.sql is not recorded",
            ]
        );
    }

    #[test]
    fn the_record_reads_what_it_writes() {
        let recorded = sums(&[("a/1.sql", "one"), ("b/1.sql", "two")]);
        assert_eq!(read(&write(&recorded)).unwrap(), recorded);
        assert!(read("no sum").is_err());
    }
}
