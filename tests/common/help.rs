//! What the program says of its commands and flags.

use std::collections::BTreeMap;

use super::Space;

/// The help of one command, as `--help` prints it.
#[derive(Debug, Default)]
pub struct Help {
    /// The first line.
    pub summary: String,
    /// What is said of each command below this one.
    pub commands: BTreeMap<String, String>,
    /// What is said of each flag; a short and a long name are two entries.
    pub flags: BTreeMap<String, String>,
    /// What is said of each argument without a flag.
    pub arguments: BTreeMap<String, String>,
}

impl Help {
    /// Returns the help of every command that is not hidden, by the words that name the command: none for the program itself,
    /// `eval knn` for one below another.
    pub fn of_all() -> BTreeMap<String, Self> {
        let space = Space::new();
        let mut all = BTreeMap::new();
        let mut left = vec![String::new()];
        while let Some(name) = left.pop() {
            let output = space.swav(&name).arg("--help").run().succeeded();
            assert!(output.stderr.is_empty(), "{}", output.told());
            let help = Self::parse(&output.stdout);
            let below = help.commands.keys().filter(|below| *below != "help");
            left.extend(below.map(|below| format!("{name} {below}").trim().to_string()));
            all.insert(name, help);
        }
        all
    }

    /// Commands, flags and arguments with what is said of them.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &String)> {
        [&self.commands, &self.flags, &self.arguments]
            .into_iter()
            .flatten()
    }

    /// Reads clap's layout: a section has a heading without indentation; an entry is indented by 2, or by 6 if it has a long
    /// flag alone; its text follows after two spaces, or further indented on the lines below.
    fn parse(text: &str) -> Self {
        let mut help = Self {
            summary: text.lines().next().unwrap_or_default().to_string(),
            ..Self::default()
        };
        let mut section = "";
        let mut names: Vec<String> = vec![];
        for line in text.lines() {
            let words = line.trim_start();
            let indentation = line.len() - words.len();
            if indentation == 0 && !words.is_empty() {
                section = line;
            }
            let entries = match section {
                "Commands:" => &mut help.commands,
                "Options:" => &mut help.flags,
                "Arguments:" => &mut help.arguments,
                _ => continue,
            };
            let mut said = words;
            if indentation == 2 || indentation == 6 && words.starts_with('-') {
                let (entry, text) = words.split_once("  ").unwrap_or((words, ""));
                names = match section {
                    "Options:" => entry
                        .split([' ', ',', '=', '['])
                        .filter(|word| word.starts_with('-'))
                        .map(str::to_string)
                        .collect(),
                    _ => vec![entry.to_string()],
                };
                for name in &names {
                    entries.insert(name.clone(), String::new());
                }
                said = text;
            }
            for name in names.iter().filter(|_| indentation > 0) {
                entries
                    .entry(name.clone())
                    .or_default()
                    .push_str(said.trim());
            }
        }
        help
    }
}
