//! docs/nat-requirements.md names a test for each requirement, and each of these tests is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const TABLE: &str = "../docs/nat-requirements.md";

/// Requirements of each RFC, as the first column calls them.
const ASKED: [(&str, &str, &str); 4] = [
    ("RFC 4787", "REQ-", "1 2 3 3a 4 5 5a 5b 5c 6 6a 7 8 8a 9 9a 10 10a 11 12 12a 12b 13 13a 14 14a"),
    ("RFC 5382", "REQ-", "1 2 2a 3 3a 3b 4 4a 5 5a 6 7 8 8a 9 10"),
    (
        "RFC 5508",
        "REQ-",
        "1 1a 2 2a 3 3a 3b 3c 3d 4 4a 4b 4c 5 5a 5b 5c 6 7 7a 8 9 10a.1 10a.2 10a.3 \
         10b.1 10b.2 10b.3 10b.4 10b.5 10b.6 10c.1 10c.2 10d 10e 10f 11",
    ),
    ("RFC 7857", "§", "2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12"),
];

/// RFC 2119
const LEVELS: [&str; 6] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "MAY"];

/// Cells of the rows, by the heading that they stand under.
fn rows() -> BTreeMap<String, Vec<Vec<String>>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let text = std::fs::read_to_string(&path).expect("the table is there");
    let mut rows: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.split(':').next().unwrap_or_default().clone_into(&mut heading);
        } else if let Some(line) = line.strip_prefix('|')
            && !line.starts_with("---")
            && !line.starts_with(" requirement ")
        {
            let cells = line.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned());
            rows.entry(heading.clone()).or_default().push(cells.collect());
        }
    }
    rows
}

/// The functions of this directory that are tests.
fn tests() -> BTreeSet<String> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/requirements");
    let files = std::fs::read_dir(directory).expect("the directory is there").map(|file| file.expect("a file").path());
    let mut tests = BTreeSet::new();
    for file in files.filter(|file| !file.ends_with("table.rs")) {
        let text = std::fs::read_to_string(file).expect("readable");
        let after = text.split("#[test]\nfn ").skip(1);
        tests.extend(after.filter_map(|rest| Some(rest.split_once("() {")?.0.to_owned())));
    }
    tests
}

fn named(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_requirement_has_a_row_and_every_row_a_requirement() {
    let rows = rows();
    for (rfc, prefix, numbers) in ASKED {
        let asked: BTreeSet<String> = numbers.split(' ').map(|number| format!("{prefix}{number}")).collect();
        let name = |row: &Vec<String>| row[0].split(' ').next().unwrap_or_default().to_owned();
        let answered: BTreeSet<String> = rows[rfc].iter().map(name).collect();
        assert_eq!(answered, asked, "{rfc}");
    }
}

#[test]
fn every_row_says_what_becomes_of_it_and_names_a_test_that_is_there() {
    let tests = tests();
    for row in rows().values().flatten() {
        let [_, level, _, answer, shown] = &row[..] else { panic!("five columns: {row:?}") };
        assert!(LEVELS.contains(&&**level), "{row:?}");
        let known = ["yes", "as Linux: ", "the kernel's: "];
        assert!(answer == "yes" || known[1..].iter().any(|word| answer.starts_with(word)), "{row:?}");
        let named = named(shown);
        assert!(!named.is_empty(), "no test: {row:?}");
        named.iter().for_each(|name| assert!(tests.contains(name), "{name} of {row:?}"));
    }
}

#[test]
fn every_test_shows_something_that_is_asked() {
    let shown: BTreeSet<String> = rows().values().flatten().flat_map(|row| named(&row[4])).collect();
    let unnamed: Vec<_> = tests().into_iter().filter(|test| !shown.contains(test)).collect();
    assert!(unnamed.is_empty(), "in no row: {unnamed:?}");
}
