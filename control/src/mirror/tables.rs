//! Names of route tables, as iproute2 reads them.

use std::collections::BTreeMap;
use std::path::Path;

use shunt_policy::TableId;

/// The files, least important first (iproute2's `rtnl_hash_initialize`).
const FILES: [&str; 2] = ["/usr/share/iproute2/rt_tables", "/etc/iproute2/rt_tables"];
const FOLDERS: [&str; 2] = ["/usr/share/iproute2/rt_tables.d", "/etc/iproute2/rt_tables.d"];

/// Table number to name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableNames(BTreeMap<u32, String>);

impl TableNames {
    pub fn read() -> Self {
        let mut names = TableNames::default();
        for file in FILES {
            names.add_file(Path::new(file));
        }
        for folder in FOLDERS {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            paths.sort();
            paths.iter().for_each(|path| names.add_file(path));
        }
        names
    }

    fn add_file(&mut self, path: &Path) {
        // A missing or unreadable file is as good as an empty one: tables are then called by number.
        self.add(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
    }

    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            let number = match number.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => number.parse().ok(),
            };
            if let Some(number) = number {
                self.0.insert(number, name.to_owned());
            }
        }
    }

    /// The number of a table that is called by name or number.
    pub fn number(&self, name: &str) -> Option<TableId> {
        let named = self.0.iter().find(|(_, own)| *own == name).map(|(number, _)| *number);
        named.or_else(|| name.parse().ok()).map(TableId)
    }

    /// The table's name, or its number.
    pub fn name(&self, table: TableId) -> String {
        self.0.get(&table.0).cloned().unwrap_or_else(|| table.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_file_and_numbers_stay() {
        let mut names = TableNames::default();
        names.add("# reserved\n255\tlocal\n201 mail.out # the slow link\n0x10 hex\nnonsense\n");
        assert_eq!(names.name(TableId(201)), "mail.out");
        assert_eq!(names.name(TableId(16)), "hex");
        assert_eq!(names.name(TableId(7)), "7");
    }
}
