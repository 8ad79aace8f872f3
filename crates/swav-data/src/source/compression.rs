//! Compressed tar archives: recognised by name or first bytes, and refused, since members cannot be read in place.

use std::fs::File;
use std::path::Path;

use super::filesystem::read_at;
use crate::error::DataError;

/// Whether the name says that this is a compressed tar.
pub(super) fn is_compressed(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    ["tgz", "tbz2", "txz", "tzst"]
        .iter()
        .any(|end| name.ends_with(&format!(".{end}")))
        || ["gz", "bz2", "xz", "zst"]
            .iter()
            .any(|end| name.ends_with(&format!(".tar.{end}")))
}

/// Whether the file starts as gzip, bzip2, xz or zstd data do.
pub(super) fn starts_compressed(file: &File) -> bool {
    const MAGIC: [&[u8]; 4] = [
        &[0x1F, 0x8B],
        b"BZh",
        &[0xFD, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xB5, 0x2F, 0xFD],
    ];
    let mut start = [0; 5];
    read_at(file, &mut start, 0).is_ok() && MAGIC.iter().any(|magic| start.starts_with(magic))
}

pub(super) fn compressed(path: &Path) -> DataError {
    DataError::Archive {
        file: path.to_string_lossy().into_owned(),
        reason: "compressed, so no member can be read on its own; decompress it first \
                 (`gunzip`, `unxz`, `zstd -d` …): images hardly shrink in any case"
            .into(),
    }
}
