//! Patterns that choose files: `shards/train-*.tar`, `shards/train-{000..099}.tar`.
//!
//! `*`, `?`, `[…]` and `**` are a shell's, and so are braces: `{a,b}` stands for each of its parts,
//! `{000..099}` for each number, with leading zeros where the first has them, as WebDataset has it. The
//! folders that exist by the letter of the pattern are taken by it, so that `[old]` may name one.

use std::fs;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::DataError;

/// Whether a path that names no file may be a pattern.
pub(super) fn is_pattern(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().any(|byte| b"*?[{".contains(byte))
}

/// The files that match, sorted by their bytes. Hidden ones do not, nor do the indices that this program
/// keeps beside archives.
///
/// # Errors
/// [`DataError::Format`] when the pattern is none, nothing matches, or a folder does;
/// [`DataError::NotFound`] for a file that braces alone name; [`DataError::Io`].
pub(super) fn matches(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let wrong = |reason: String| DataError::format(path, reason);
    let text = path
        .to_str()
        .ok_or_else(|| wrong("a pattern must be UTF-8".into()))?;
    let mut found = Vec::new();
    for pattern in braces(text).map_err(wrong)? {
        if !pattern.contains(['*', '?', '[']) || Path::new(&pattern).exists() {
            let file = PathBuf::from(pattern);
            fs::metadata(&file).map_err(|error| DataError::io(&file, error))?;
            found.push(file);
            continue;
        }
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let paths = glob::glob_with(&escaped(Path::new(&pattern)), options)
            .map_err(|error| wrong(format!("not a pattern: {error}")))?;
        for file in paths {
            let file = file.map_err(|error| DataError::Io {
                path: error.path().into(),
                source: error.into(),
            })?;
            if !file.to_string_lossy().ends_with(".tar.index") {
                found.push(file);
            }
        }
    }
    if found.is_empty() {
        return Err(wrong("no file matches this pattern".into()));
    }
    if let Some(folder) = found.iter().find(|file| file.is_dir()) {
        return Err(wrong(format!(
            "a pattern chooses files, and {} is a folder; name it alone, or what is in it as {}",
            folder.display(),
            folder.join("*").display()
        )));
    }
    found.sort_by(|a, b| {
        let bytes = |path: &PathBuf| path.as_os_str().as_encoded_bytes().to_vec();
        bytes(a).cmp(&bytes(b))
    });
    found.dedup();
    Ok(found)
}

/// The pattern, less what is special in the folders that it begins with and that exist.
fn escaped(pattern: &Path) -> String {
    let mut parts = pattern.components().peekable();
    let mut known = PathBuf::new();
    while let Some(part) = parts.peek() {
        if matches!(part, Component::Normal(_)) && !known.join(part).is_dir() {
            break;
        }
        known.push(part);
        parts.next();
    }
    let mut text = Pattern::escape(&known.to_string_lossy());
    for part in parts {
        if !text.is_empty() && !text.ends_with(std::path::is_separator) {
            text.push(std::path::MAIN_SEPARATOR);
        }
        text += &part.as_os_str().to_string_lossy();
    }
    text
}

/// What stands for each choice of what is in braces.
fn braces(text: &str) -> Result<Vec<String>, String> {
    /// More files than any set has.
    const MOST: usize = 1 << 20;
    let Some((before, inside, after)) = first_braces(text) else {
        return Ok(vec![text.into()]);
    };
    let mut choices = Vec::new();
    match range(inside) {
        Some((first, last, width)) => {
            if first.abs_diff(last) >= MOST as u64 {
                return Err(format!("{{{inside}}} stands for more than {MOST} numbers"));
            }
            let numbers: Box<dyn Iterator<Item = u64>> = match first <= last {
                true => Box::new(first..=last),
                false => Box::new((last..=first).rev()),
            };
            choices.extend(numbers.map(|number| format!("{number:0width$}")));
        }
        None => {
            for choice in alternatives(inside) {
                choices.append(&mut braces(choice)?);
            }
        }
    }
    let rests = braces(after)?;
    if choices.len().saturating_mul(rests.len()) > MOST {
        return Err(format!("stands for more than {MOST} names"));
    }
    let joined = choices.iter().flat_map(|choice| {
        let rests = rests.iter();
        rests.map(move |rest| format!("{before}{choice}{rest}"))
    });
    Ok(joined.collect())
}

/// What stands before, in and after the first braces that hold a choice.
fn first_braces(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(start) = text[from..].find('{').map(|at| from + at) {
        let mut depth = 0;
        let end = text[start..].char_indices().find(|&(_, letter)| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0
        });
        if let Some((length, _)) = end {
            let inside = &text[start + 1..start + length];
            if range(inside).is_some() || alternatives(inside).len() > 1 {
                return Some((&text[..start], inside, &text[start + length + 1..]));
            }
        }
        from = start + 1;
    }
    None
}

/// First and last number of `000..099`, and their width where they have leading zeros.
fn range(text: &str) -> Option<(u64, u64, usize)> {
    let (first, last) = text.split_once("..")?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let width = match padded(first) || padded(last) {
        true => first.len().max(last.len()),
        false => 0,
    };
    Some((number(first)?, number(last)?, width))
}

/// The parts of a text between the commas that are in no braces of their own.
fn alternatives(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_each_choice() {
        for (text, expected) in [
            ("a.tar", &["a.tar"][..]),
            ("{08..11}.tar", &["08.tar", "09.tar", "10.tar", "11.tar"]),
            ("x-{9..10}", &["x-9", "x-10"]),
            ("{2..1}", &["2", "1"]),
            ("{a,b{1,2}}.t", &["a.t", "b1.t", "b2.t"]),
            ("{a,b}{0..1}", &["a0", "a1", "b0", "b1"]),
            ("{one}.t", &["{one}.t"]),
            ("{a.t", &["{a.t"]),
            ("{x}{,s}", &["{x}", "{x}s"]),
        ] {
            assert_eq!(braces(text).unwrap(), expected, "{text}");
        }
        assert!(braces("{0..99999999}").is_err());
        assert!(braces("{0..9999}{0..9999}").is_err());
    }
}
