//! What lies where in one tar archive: its headers read once, from the first to the last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::catalogue::{Catalogue, Role, bytes, failed};
use super::classes::NO_LABEL;
use super::filesystem::is_image;
use super::marker::{MARKER, Marker};
use super::members::{BLOCK, Kind, Members, ReadAt, path_inside};
use super::remarks::Remarks;
use super::table::{Layout, Table};
use super::webdataset;
use crate::error::DataError;

/// Reads the headers of an archive of `length` bytes, called `name` in errors, and lists its images
/// below `prefix`: as they lie there in a packed archive and with keys, else sorted by name, a
/// folder's entries together.
///
/// When no layout is asked for, the archive decides: keys when an image has a label of its own key, in whatever place.
pub(super) fn list(
    read: impl ReadAt,
    length: u64,
    asked: Option<Layout>,
    prefix: &Path,
    name: &str,
) -> Result<Table, DataError> {
    let failed = |reason: String| failed(name, reason);
    if length < BLOCK {
        return Err(failed(format!(
            "cut short: {length} bytes are less than one tar header"
        )));
    }
    if length / BLOCK > u64::from(u32::MAX) {
        return Err(failed("larger than 2 TiB: pack it into shards".into()));
    }
    let mut all = Catalogue::new(&read, name);
    let mut marker = None;
    for member in Members::new(&read, 0, length) {
        let member = member.map_err(failed)?;
        let Some(clean) = path_inside(&member.path) else {
            let reason = format!("member {} leaves the archive", member.path.display());
            return Err(failed(reason));
        };
        if member.kind == Kind::Other {
            continue;
        }
        let hidden = clean
            .iter()
            .any(|part| part.as_encoded_bytes().starts_with(b"."));
        let role = match clean.starts_with(prefix) {
            true if hidden => Role::Other,
            true if is_image(&clean) => Role::Image,
            true if webdataset::is_label(&clean) && marker.is_none() => Role::Label,
            _ => Role::Other,
        };
        let belongs = !hidden && clean.starts_with(prefix);
        if role == Role::Other && belongs && member.kind == Kind::File {
            all.remarks.endings.count(&clean);
        }
        let first = member.start == 0 && member.kind == Kind::File && clean == Path::new(MARKER);
        all.push(member, &clean, role);
        if first && asked != Some(Layout::Keys) {
            marker = Some(read_marker(&all).map_err(failed)?);
        }
    }
    let order = all.by_name();
    all.follow_links(&order);
    all.of_role(Role::Image)
        .try_for_each(|image| all.check(image))?;
    all.keep_last_of_each_name(&order);
    let labelled = webdataset::is_labelled(&all);
    let mut table = match asked {
        Some(Layout::Keys) => webdataset::table(&all)?,
        None if labelled => webdataset::table(&all)?,
        _ => by_folders(&all, &order, prefix, marker, labelled),
    };
    let found = std::mem::take(&mut table.remarks);
    table.remarks = Remarks {
        replaced: all.remarks.replaced,
        links: all.remarks.links,
        endings: all.remarks.endings,
        ..found
    };
    table.labelled = labelled;
    Ok(table)
}

/// The table of images in folders: in the order of their names, or of the archive when it has a marker.
fn by_folders<R: ReadAt>(
    all: &Catalogue<R>,
    order: &[u32],
    prefix: &Path,
    marker: Option<Marker>,
    labelled: bool,
) -> Table {
    let is_image = |&index: &u32| all.entries[index as usize].role == Role::Image;
    let images: Vec<u32> = match marker {
        Some(_) => all.of_role(Role::Image).collect(),
        None => order.iter().copied().filter(is_image).collect(),
    };
    // Every image lies below the prefix.
    let prefix: PathBuf = prefix.components().collect();
    let skipped = match bytes(&prefix).len() {
        0 => 0,
        length => length + 1,
    };
    let folder_of = |index: u32| first_folder(all.name(index).get(skipped..)?);
    let folders: BTreeSet<&[u8]> = images
        .iter()
        .filter_map(|&index| folder_of(index))
        .collect();
    let folders: Vec<Vec<u8>> = folders.into_iter().map(<[u8]>::to_vec).collect();
    let mut table = Table::default();
    for index in images {
        let found = folder_of(index)
            .map(|name| folders.binary_search_by(|folder| folder.as_slice().cmp(name)));
        let label = match found {
            Some(Ok(number)) => number as u32,
            _ => NO_LABEL,
        };
        table.push(&all.entries[index as usize], label);
    }
    if !labelled {
        let labels = all.of_role(Role::Label);
        let labels = labels.filter(|&label| webdataset::is_cls(all.name(label)));
        labels.for_each(|label| table.remarks.orphans.add(|| all.place(label)));
    }
    table.folders = folders;
    table.marker = marker;
    table
}

/// Reads the marker, which is the first entry.
fn read_marker<R: ReadAt>(all: &Catalogue<R>) -> Result<Marker, String> {
    /// A million classes with long names.
    const MOST: u64 = 1 << 26;
    let wrong = |what: String| format!("member {MARKER}: {what}");
    let text = all.read(0, MOST).map_err(wrong)?;
    let marker: Marker = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if marker.version != Marker::VERSION {
        return Err(wrong(format!(
            "version {}, this program knows {}; pack the images anew",
            marker.version,
            Marker::VERSION
        )));
    }
    if marker.folders().len() != marker.classes.len() {
        return Err(wrong("not as many folders as classes".into()));
    }
    Ok(marker)
}

/// The first folder of a member, when it lies in one.
fn first_folder(name: &[u8]) -> Option<&[u8]> {
    let separator = |&byte: &u8| byte == b'/' || char::from(byte) == std::path::MAIN_SEPARATOR;
    name.iter().position(separator).map(|end| &name[..end])
}
