//! Texts for descriptions and errors: counts of images, known extensions, contents of a folder.

use std::path::Path;

use super::filesystem::listing;
use crate::decode::EXTENSIONS;

/// ".jpg, .jpeg, …"
pub(super) fn extension_list() -> String {
    EXTENSIONS
        .map(|extension| format!(".{extension}"))
        .join(", ")
}

/// "12,345 images in 10 classes"
pub(super) fn count(images: usize, classes: usize) -> String {
    let noun = if images == 1 { "image" } else { "images" };
    let mut text = format!("{} {noun}", thousands(images));
    if classes > 0 {
        let noun = if classes == 1 { "class" } else { "classes" };
        text += &format!(" in {} {noun}", thousands(classes));
    }
    text
}

/// 1234567 → "1,234,567"
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Says how many images have no label, where some have none.
pub(super) fn without_label(bare: usize, total: usize) -> Option<String> {
    let (bare, total) = match bare {
        0 => return None,
        _ => (thousands(bare), thousands(total)),
    };
    Some(format!("{bare} of {total} images have no label"))
}

/// "3 files (.psd, .txt) and 2 folders": what an error names when there is no image.
pub(super) fn inventory(folder: &Path) -> String {
    let Ok(entries) = listing(folder) else {
        return "nothing readable".into();
    };
    let (folders, files): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.is_folder());
    let mut kinds: Vec<String> = files
        .iter()
        .map(|file| match Path::new(&file.name).extension() {
            Some(extension) => format!(".{}", extension.to_string_lossy()),
            None => "no extension".into(),
        })
        .collect();
    kinds.sort();
    kinds.dedup();
    let mut parts = Vec::new();
    match (files.len(), kinds.len()) {
        (0, _) => {}
        (1, _) => parts.push(format!("1 file ({})", kinds.join(", "))),
        (n, 0..=6) => parts.push(format!("{} files ({})", thousands(n), kinds.join(", "))),
        (n, _) => parts.push(format!(
            "{} files ({}, …)",
            thousands(n),
            kinds[..6].join(", ")
        )),
    }
    match folders.len() {
        0 => {}
        1 => parts.push("1 folder".into()),
        n => parts.push(format!("{} folders", thousands(n))),
    }
    if parts.is_empty() {
        "nothing".into()
    } else {
        parts.join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_well() {
        assert_eq!(count(1, 0), "1 image");
        assert_eq!(count(50_000, 10), "50,000 images in 10 classes");
        assert_eq!(count(1_281_167, 1), "1,281,167 images in 1 class");
    }
}
