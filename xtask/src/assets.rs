//! Builds what ships inside the program: the quickstart images.
//!
//! `assets/quickstart.tar` holds one small picture per emoji, labelled with the emoji's Unicode group,
//! as `train/<group>/<code points>.png` and `test/<group>/<code points>.png`. The same crates in the
//! same versions give the same bytes: members are sorted, and every header field that could carry the
//! time or the builder is fixed.
//!
//! The art is Twemoji's (CC-BY 4.0, see `assets/ATTRIBUTION.md`). Two things are done to it:
//!
//! * **It is laid on white.** The originals are transparent, and what a transparent pixel looks like is
//!   up to the decoder. Most are indexed PNGs, where it is enough to blend the palette: the compressed
//!   pixels stay as they are. The few true-colour ones are encoded anew, as opaque RGB.
//! * **Pictures drawn twice are kept once.** Some territories fly the same flag, and most families share
//!   one silhouette; with a copy in each split the test would count recall of a training image as
//!   knowledge.
//!
//! For the same reason the split is drawn by *motif*, not by code point: the woman, the man and the
//! person who climb are one drawing with other hair, so all three go to the same side.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use emojis::Group;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use twemoji_assets::png::PngTwemojiAsset;

/// One motif in this many goes to the test split.
const TEST_SHARE: u64 = 5;

/// The width and height of every picture, in pixels.
const SIDE: u32 = 72;

/// Two pictures are one when their pixels differ by no more than this on average (of 255 grey levels).
const SAME: u64 = 1;

/// What the transparent originals are laid on.
const BACKGROUND: u32 = 255;

/// Writes the quickstart archive to `out` and prints how many images each group and split got.
///
/// # Errors
///
/// If an original is not a 72-pixel PNG, or if `out` cannot be written.
pub fn quickstart(out: &Path) -> Result<()> {
    let mut members: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut seen = Pictures::default();
    let (mut missing, mut repeated) = (0, 0);

    for emoji in emojis::iter() {
        let Some(original) = twemoji(emoji.as_str()) else {
            missing += 1;
            continue;
        };
        let name = code_points(emoji.as_str());
        let png = on_white(original).with_context(|| format!("the picture of {name}"))?;
        if !seen.insert(image::load_from_memory(&png)?.to_rgb8().into_raw()) {
            repeated += 1;
            continue;
        }
        let group = slug(emoji.group());
        let test = is_test(emoji.as_str());
        let split = if test { "test" } else { "train" };
        counts.entry(group).or_default()[usize::from(test)] += 1;
        members.insert(format!("{split}/{group}/{name}.png"), png);
    }

    write_tar(out, &members).with_context(|| format!("writing {}", out.display()))?;

    let bytes = std::fs::metadata(out)?.len();
    eprintln!(
        "{}: {} images, {bytes} bytes ({missing} without a picture, {repeated} drawn twice)",
        out.display(),
        members.len(),
    );
    for (group, [train, test]) in &counts {
        eprintln!("{group:>20} {train:>5} train {test:>5} test");
    }
    Ok(())
}

/// The picture of an emoji. Twemoji leaves the variation selector out of most of its names.
fn twemoji(emoji: &str) -> Option<&'static [u8]> {
    let find = |name: &str| PngTwemojiAsset::from_emoji(name).map(|asset| asset.data.0);
    find(emoji).or_else(|| find(&emoji.replace('\u{fe0f}', "")))
}

/// The file name of an emoji: its code points in lower-case hexadecimal, joined by hyphens.
fn code_points(emoji: &str) -> String {
    let points: Vec<String> = emoji
        .chars()
        .map(|c| format!("{:x}", u32::from(c)))
        .collect();
    points.join("-")
}

/// The directory name of a group, which is also the label that a user sees.
fn slug(group: Group) -> &'static str {
    match group {
        Group::SmileysAndEmotion => "smileys-and-emotion",
        Group::PeopleAndBody => "people-and-body",
        Group::AnimalsAndNature => "animals-and-nature",
        Group::FoodAndDrink => "food-and-drink",
        Group::TravelAndPlaces => "travel-and-places",
        Group::Activities => "activities",
        Group::Objects => "objects",
        Group::Symbols => "symbols",
        Group::Flags => "flags",
    }
}

/// Whether an emoji belongs to the test split: a hash of its motif decides, so it never moves when
/// others are added.
fn is_test(emoji: &str) -> bool {
    const WOMAN_MAN_PERSON: [char; 3] = ['\u{1f469}', '\u{1f468}', '\u{1f9d1}'];
    const SIGNS: [char; 2] = ['\u{2640}', '\u{2642}'];
    const JOINER_SELECTOR_ARROW: [char; 3] = ['\u{200d}', '\u{fe0f}', '\u{27a1}'];
    let variation = |c: &char| {
        WOMAN_MAN_PERSON.contains(c) || SIGNS.contains(c) || JOINER_SELECTOR_ARROW.contains(c)
    };
    // One woman, one man and one person alone have nothing left and share the empty motif.
    let motif: String = emoji.chars().filter(|c| !variation(c)).collect();
    // FNV-1a, then a finaliser: the low bits of FNV alone are too regular to split on.
    let hash = motif.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32).is_multiple_of(TEST_SHARE)
}

/// Makes a PNG opaque by laying it on [`BACKGROUND`].
fn on_white(png: &[u8]) -> Result<Vec<u8>> {
    const INDEXED: u8 = 3;
    let header = Chunks(png.get(8..).context("not a PNG")?)
        .next()
        .context("no header")??;
    ensure!(
        &header.kind == b"IHDR" && header.body.len() == 13,
        "no header"
    );
    ensure!(
        header.body[..8] == [SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat(),
        "not {SIDE} pixels wide and high"
    );
    if header.body[9] == INDEXED {
        blend_palette(png)
    } else {
        encode_opaque(png)
    }
}

/// Blends the palette of an indexed PNG with the background and drops its transparency, as well as
/// every chunk that only carries remarks. The pixels are copied as they are.
fn blend_palette(png: &[u8]) -> Result<Vec<u8>> {
    let chunks: Vec<Chunk> = Chunks(&png[8..]).collect::<Result<_>>()?;
    let transparency = chunks.iter().find(|chunk| &chunk.kind == b"tRNS");
    let alpha = |index: usize| {
        let alpha = transparency.and_then(|chunk| chunk.body.get(index));
        alpha.copied().unwrap_or(u8::MAX)
    };

    let mut out = png[..8].to_vec();
    for chunk in &chunks {
        match &chunk.kind {
            b"PLTE" => {
                let blended: Vec<u8> = chunk
                    .body
                    .iter()
                    .enumerate()
                    .map(|(at, &value)| blend(value, alpha(at / 3)))
                    .collect();
                push_chunk(&mut out, *b"PLTE", &blended)?;
            }
            b"IHDR" | b"IDAT" | b"IEND" => push_chunk(&mut out, chunk.kind, chunk.body)?,
            // Critical chunks begin with a capital: there is none but these four.
            kind if kind[0].is_ascii_uppercase() => bail!("unknown critical chunk {kind:?}"),
            _ => {}
        }
    }
    Ok(out)
}

/// Encodes a PNG of any other colour type anew, as opaque RGB.
fn encode_opaque(png: &[u8]) -> Result<Vec<u8>> {
    let image = image::load_from_memory_with_format(png, image::ImageFormat::Png)?.to_rgba8();
    let rgb: Vec<u8> = image
        .pixels()
        .flat_map(|pixel| {
            let [red, green, blue, alpha] = pixel.0;
            [red, green, blue].map(|value| blend(value, alpha))
        })
        .collect();
    let mut out = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut out, CompressionType::Best, FilterType::Adaptive)
        .write_image(&rgb, SIDE, SIDE, ExtendedColorType::Rgb8)?;
    Ok(out.into_inner())
}

/// `value` laid with opacity `alpha` on the background, rounded to nearest.
fn blend(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    let mixed = (value * alpha + BACKGROUND * (255 - alpha) + 127) / 255;
    u8::try_from(mixed).unwrap_or(u8::MAX)
}

/// The pixels of every picture so far.
#[derive(Default)]
struct Pictures(Vec<(u64, Vec<u8>)>);

impl Pictures {
    /// Adds a picture unless it is there already, up to [`SAME`]. Says whether it was added.
    fn insert(&mut self, pixels: Vec<u8>) -> bool {
        let tolerance = SAME * pixels.len() as u64;
        let sum = pixels.iter().map(|&value| u64::from(value)).sum::<u64>();
        let known = self.0.iter().any(|(other_sum, other)| {
            // The sums differ by no more than the pixels do: most pairs are told apart by that alone.
            sum.abs_diff(*other_sum) <= tolerance && distance(&pixels, other) <= tolerance
        });
        if !known {
            self.0.push((sum, pixels));
        }
        !known
    }
}

/// The sum of the absolute differences of two pictures' pixels.
fn distance(one: &[u8], other: &[u8]) -> u64 {
    let pairs = one.iter().zip(other);
    pairs
        .map(|(one, other)| u64::from(one.abs_diff(*other)))
        .sum()
}

/// A part of a PNG file.
struct Chunk<'a> {
    kind: [u8; 4],
    body: &'a [u8],
}

/// The chunks in what follows a PNG's signature.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = self.take();
        if parsed.is_none() {
            self.0 = &[];
        }
        Some(parsed.context("the PNG is cut off"))
    }
}

impl<'a> Chunks<'a> {
    /// Length, kind, body, checksum: the four parts of a chunk.
    fn take(&mut self) -> Option<Chunk<'a>> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (&kind, rest) = rest.split_first_chunk::<4>()?;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (_checksum, rest) = rest.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(Chunk { kind, body })
    }
}

/// Appends a chunk with its length and checksum.
fn push_chunk(out: &mut Vec<u8>, kind: [u8; 4], body: &[u8]) -> Result<()> {
    out.extend(u32::try_from(body.len())?.to_be_bytes());
    let start = out.len();
    out.extend(kind);
    out.extend(body);
    let checksum = crc32(&out[start..]);
    out.extend(checksum.to_be_bytes());
    Ok(())
}

/// The checksum that PNG uses (ISO 3309, reflected polynomial 0xedb88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Writes the members in order, with owner, time and mode fixed, through a temporary file so that a
/// half-written archive is never left under the final name.
fn write_tar(out: &Path, members: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, path, bytes.as_slice())?;
    }
    let temporary = out.with_extension("tar.part");
    std::fs::write(&temporary, archive.into_inner()?)?;
    std::fs::rename(&temporary, out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_png_uses() {
        // The chunk that ends every PNG file.
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
    }

    #[test]
    fn blending_keeps_opaque_pixels_and_whitens_clear_ones() {
        assert_eq!(blend(17, 255), 17);
        assert_eq!(blend(17, 0), 255);
        assert_eq!(blend(0, 128), 127);
    }

    #[test]
    fn variants_of_one_motif_are_on_the_same_side() {
        for variants in [["🧗", "🧗‍♀️", "🧗‍♂️"], ["🧑‍🚀", "👩‍🚀", "👨‍🚀"]]
        {
            let sides = variants.map(is_test);
            assert!(sides.iter().all(|side| *side == sides[0]), "{variants:?}");
        }
    }

    #[test]
    fn a_picture_drawn_twice_is_known_the_second_time() {
        let mut seen = Pictures::default();
        assert!(seen.insert(vec![10; 12]));
        assert!(!seen.insert(vec![11; 12]));
        assert!(seen.insert(vec![12; 12]));
    }

    #[test]
    fn an_indexed_picture_keeps_its_opaque_pixels() -> Result<()> {
        let original = twemoji("🦆").context("no duck")?;
        let before = image::load_from_memory(original)?.to_rgba8();
        let after = image::load_from_memory(&on_white(original)?)?.to_rgba8();
        for (before, after) in before.pixels().zip(after.pixels()) {
            assert_eq!(after.0[3], 255);
            match before.0[3] {
                255 => assert_eq!(before, after),
                0 => assert_eq!(after.0, [255; 4]),
                _ => {}
            }
        }
        Ok(())
    }
}
