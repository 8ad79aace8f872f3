//! Reads and decodes one sample of a source. Errors and panics become a [`BadFile`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::decode::{Reduction, decode_reduced};
use crate::error::DataError;
use crate::health::{BadFile, BadKind};
use crate::sample::{Image, Sample};
use crate::source::Source;
use crate::threads::panic_reason;

/// Reads and decodes sample `index` into `image`, smaller where `reduction` allows it, and returns the
/// width and height of the whole; a panic on the way (a bug in a decoder) is a bad file too.
pub(crate) fn try_decode(
    source: &dyn Source,
    index: usize,
    max_pixels: u64,
    image: &mut Image,
    reduction: &Reduction<'_>,
) -> Result<[u32; 2], BadFile> {
    try_decode_inspecting(source, index, max_pixels, image, reduction, |_| ())
}

/// [`try_decode`], which calls `inspect` with the sample between reading and decoding.
pub(crate) fn try_decode_inspecting(
    source: &dyn Source,
    index: usize,
    max_pixels: u64,
    image: &mut Image,
    reduction: &Reduction<'_>,
    inspect: impl FnOnce(&Sample),
) -> Result<[u32; 2], BadFile> {
    let bad = |kind: BadKind, reason: String| BadFile {
        index,
        name: name_of(source, index),
        kind,
        reason,
    };
    let attempt = || -> Result<[u32; 2], DataError> {
        let sample = source.read(index)?;
        inspect(&sample);
        match sample {
            // Already pixels: no copy.
            Sample::Pixels { width, height, rgb }
                if u64::from(width) * u64::from(height) <= max_pixels =>
            {
                *image = Image::new(width, height, rgb)
                    .map_err(|reason| DataError::decode(&name_of(source, index), reason))?;
                Ok([width, height])
            }
            // A name may have to be read from a file, and it is wanted in errors alone.
            sample => decode_reduced(&sample, "", max_pixels, image, reduction).or_else(|_| {
                let name = name_of(source, index);
                decode_reduced(&sample, &name, max_pixels, image, reduction)
            }),
        }
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(Ok(size)) => Ok(size),
        Ok(Err(error @ DataError::Unsupported { .. })) => {
            Err(bad(BadKind::Unsupported, error.to_string()))
        }
        Ok(Err(error)) => Err(bad(BadKind::Corrupt, error.to_string())),
        Err(panic) => Err(bad(BadKind::Corrupt, panic_reason(panic.as_ref()))),
    }
}

/// The name of sample `index`, or its number where the source panics over the name.
pub(crate) fn name_of(source: &dyn Source, index: usize) -> String {
    catch_unwind(AssertUnwindSafe(|| source.name(index)))
        .unwrap_or_else(|_| format!("sample {index}"))
}
