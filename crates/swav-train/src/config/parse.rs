//! From text and overrides to a [`Recipe`], with errors that say where and what instead.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::Recipe;
use crate::TrainError;
use crate::files::write_atomic;
use crate::method::MethodRecipe;

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Names the file, the line and, for an unknown field, the nearest known one.
    pub fn from_file(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            TrainError::Recipe(format!(
                "cannot read the recipe {}: {error}",
                path.display()
            ))
        })?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// Writes the recipe, so that [`from_file`](Self::from_file) reads it back.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let text = toml::to_string_pretty(self)
            .map_err(|error| TrainError::checkpoint(path, error.to_string()))?;
        write_atomic(path, text.as_bytes())
    }

    /// Parses a recipe; `origin` is what errors call it.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, TrainError> {
        let parsed = toml::from_str(text);
        parsed.map_err(|error| {
            let error = MethodRecipe::check_lines(text).err().unwrap_or(error);
            let message = error.to_string();
            TrainError::Recipe(format!("{origin}: {}", with_suggestion(message.trim_end())))
        })
    }

    /// Applies `section.field=value` overrides, that of the method's name before all others: what else may be told
    /// depends on it.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_all(self, assignments: &[String]) -> Result<Self, TrainError> {
        let names_method = |assignment: &&String| {
            let key = assignment.split('=').next().unwrap_or_default();
            key.trim() == "method.name"
        };
        let first = assignments.iter().filter(names_method);
        let others = assignments
            .iter()
            .filter(|assignment| !names_method(assignment));
        first
            .chain(others)
            .try_fold(self, |recipe, assignment| recipe.set(assignment))
    }

    /// Applies one `section.field=value` override.
    ///
    /// The value is TOML (`2`, `0.5`, `[64, 64]`, `"10 epochs"`); text that is no TOML value is
    /// taken as a string, so that quotes may be left out on a command line.
    ///
    /// # Errors
    /// Names the override and, for an unknown field, the nearest known one.
    pub fn set(self, assignment: &str) -> Result<Self, TrainError> {
        let wrong = |reason: String| TrainError::Recipe(format!("--set {assignment}: {reason}"));
        let (key, text) = assignment.split_once('=').ok_or_else(|| {
            wrong("write section.field=value, for instance train.epochs=2".to_string())
        })?;
        let mut root = Value::try_from(&self).map_err(|error| wrong(error.to_string()))?;
        let (key, text) = (key.trim(), text.trim());
        if text
            .parse::<i128>()
            .is_ok_and(|n| i64::try_from(n).is_err())
        {
            return Err(wrong(format!(
                "the number is too large: at most {} can be written in a recipe",
                i64::MAX
            )));
        }
        insert(&mut root, key, value(text)).map_err(wrong)?;
        Self::deserialize(root).map_err(|error| {
            let message = error.to_string();
            let message = message.trim();
            wrong(if message.contains("expected a sequence") {
                format!("expected a list: write {key}=[{text}]")
            } else if message.contains("expected struct") {
                format!("`{key}` is a section: write {key}.FIELD=VALUE for one of its fields")
            } else {
                with_suggestion(message)
            })
        })
    }
}

/// A TOML value, or else the text itself as a string.
fn value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_string()))
}

/// Puts `value` at the dotted `key`, making tables on the way; a number indexes an array.
fn insert(root: &mut Value, key: &str, value: Value) -> Result<(), String> {
    let mut place = root;
    for part in key.split('.') {
        place = match place {
            Value::Table(table) => table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new())),
            Value::Array(items) => {
                let length = items.len();
                part.parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index))
                    .ok_or_else(|| format!("`{part}` is no index into a list of {length}"))?
            }
            _ => return Err(format!("`{part}` lies below a plain value")),
        };
    }
    *place = value;
    Ok(())
}

/// Adds "did you mean" to serde's message about an unknown field or variant.
fn with_suggestion(message: &str) -> String {
    let quoted = |text: &str| -> Vec<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_string)
            .collect()
    };
    let line = message
        .lines()
        .find(|line| line.contains("unknown field") || line.contains("unknown variant"));
    let Some(names) = line.map(quoted) else {
        return message.to_string();
    };
    let Some((unknown, known)) = names.split_first() else {
        return message.to_string();
    };
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, name)) if likeness > 0.7 => {
            format!("{message}\ndid you mean `{name}`?")
        }
        _ => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    fn refusal(text: &str) -> String {
        Recipe::from_toml(text, "r.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_line_and_the_nearest_name() {
        let message = refusal("[train]\nepoch = 3\n");
        assert!(message.contains("r.toml"), "{message}");
        assert!(message.contains("line 2"), "{message}");
        assert!(message.contains("did you mean `epochs`?"), "{message}");
    }

    #[test]
    fn a_negative_size_is_refused() {
        let message = refusal("[[crops]]\ncount = 2\nsize = -32\nscale = [0.1, 1.0]\n");
        assert!(message.contains("-32"), "{message}");
    }

    #[test]
    fn an_override_replaces_one_field_and_leaves_the_others() {
        let recipe = Recipe::from_toml("[train]\nepochs = 9\nseed = 4\n", "r").unwrap();
        let recipe = recipe
            .set("train.epochs=2")
            .and_then(|r| r.set("method.freeze=1 epoch"))
            .and_then(|r| r.set("model.prototypes=[16, 16]"))
            .unwrap();
        assert_eq!(recipe.train.epochs, Some(2));
        assert_eq!(recipe.train.seed, Some(4));
        let MethodRecipe::Swav(method) = &recipe.method else {
            panic!("{:?}", recipe.method)
        };
        assert_eq!(method.freeze, Some(Span::Epochs(1.0)));
        assert_eq!(recipe.model.prototypes, Some(vec![16, 16]));
    }

    #[test]
    fn the_name_of_a_method_counts_before_its_fields_wherever_it_stands() {
        let overrides = ["method.momentum=0.99", "method.name=moco-v2"].map(String::from);
        let recipe = Recipe::default().set_all(&overrides).unwrap();
        let MethodRecipe::MocoV2(method) = recipe.method else {
            panic!("{:?}", recipe.method)
        };
        assert_eq!(method.momentum, Some(0.99));
        let message = Recipe::default()
            .set("method.momentum=0.99")
            .unwrap_err()
            .to_string();
        assert!(message.contains("[method] of swav"), "{message}");
    }

    #[test]
    fn an_override_of_an_unknown_field_names_the_flag_and_the_nearest_field() {
        let message = Recipe::default()
            .set("optimizer.larning_rate=1")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--set optimizer.larning_rate=1"),
            "{message}"
        );
        let message = Recipe::default()
            .set("train.bach_size=8")
            .unwrap_err()
            .to_string();
        assert!(message.contains("did you mean `batch_size`?"), "{message}");
        assert!(Recipe::default().set("train.epochs").is_err());
    }

    #[test]
    fn an_override_of_the_wrong_kind_says_what_to_write() {
        for (assignment, advice) in [
            ("model.prototypes=10", "model.prototypes=[10]"),
            ("train=5", "train.FIELD=VALUE"),
            (
                "train.seed=9223372036854775808",
                "at most 9223372036854775807",
            ),
        ] {
            let message = Recipe::default().set(assignment).unwrap_err().to_string();
            assert!(message.contains(advice), "{message}");
        }
    }

    #[test]
    fn an_override_reaches_into_the_list_of_crops() {
        let text = "[[crops]]\ncount = 2\nsize = 32\nscale = [0.1, 1.0]\n";
        let recipe = Recipe::from_toml(text, "r")
            .unwrap()
            .set("crops.0.size=48")
            .unwrap();
        assert_eq!(recipe.crops[0].size, 48);
        assert!(
            Recipe::from_toml(text, "r")
                .unwrap()
                .set("crops.3.size=48")
                .is_err()
        );
    }
}
