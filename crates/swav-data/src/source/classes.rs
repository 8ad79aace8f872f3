//! Puts classes in order and gives labels the numbers of their classes.
//!
//! While a set is read, a class is counted when it first appears. Its final number is its place in the sorted list.

use std::collections::HashMap;

/// The label of an image that has none.
pub(super) const NO_LABEL: u32 = u32::MAX;

/// Sorts classes, given with their numbers by first appearance, by the bytes of their names, renumbers `labels`, and
/// returns the names.
pub(super) fn sort_by_name(classes: HashMap<Vec<u8>, u32>, labels: &mut [u32]) -> Vec<String> {
    let mut sorted: Vec<(Vec<u8>, u32)> = classes.into_iter().collect();
    sorted.sort_unstable();
    renumber(&sorted, labels);
    names_of(sorted)
}

/// [`sort_by_name`], or by value when all names are whole numbers.
pub(super) fn sort_by_value_or_name(
    classes: HashMap<Vec<u8>, u32>,
    labels: &mut [u32],
) -> Vec<String> {
    let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse::<i64>().ok();
    if !classes.keys().all(|name| number(name).is_some()) {
        return sort_by_name(classes, labels);
    }
    let mut sorted: Vec<(Vec<u8>, u32)> = classes.into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| (number(one), one).cmp(&(number(other), other)));
    renumber(&sorted, labels);
    names_of(sorted)
}

/// Replaces each label, a number by first appearance, by the place of that number in `sorted`. Any other label, such
/// as [`NO_LABEL`], becomes [`NO_LABEL`].
pub(super) fn renumber<Name>(sorted: &[(Name, u32)], labels: &mut [u32]) {
    let mut places = vec![NO_LABEL; sorted.len()];
    for (place, (_, number)) in (0..).zip(sorted) {
        places[*number as usize] = place;
    }
    for label in labels {
        *label = places.get(*label as usize).copied().unwrap_or(NO_LABEL);
    }
}

fn names_of(sorted: Vec<(Vec<u8>, u32)>) -> Vec<String> {
    let names = sorted.into_iter();
    names
        .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
        .collect()
}
