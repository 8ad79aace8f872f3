//! File contents become the pixels that Pillow would make of them, or an error that says why not.
//!
//! `tests/fixtures/make.py` made the files and, with Pillow, what is expected of them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use safetensors::SafeTensors;
use swav_data::{DEFAULT_MAX_PIXELS, DataError, Image, Sample, decode};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(folder.join(name)).unwrap()
}

fn decoded(bytes: Vec<u8>) -> Result<Image, DataError> {
    decode(&Sample::Encoded(bytes), "a file", DEFAULT_MAX_PIXELS)
}

fn reason(bytes: Vec<u8>) -> String {
    match decoded(bytes) {
        Err(DataError::Decode { file, reason }) => {
            assert_eq!(file, "a file");
            reason
        }
        other => panic!("expected a decoding error, got {other:?}"),
    }
}

/// A PNG header that announces the given size, and nothing else.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    crc.update(&header);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&header);
    png.extend(crc.sum().to_be_bytes());
    // The beginning of the data, which a decoder wants to see before it believes the header.
    png.extend(b"\0\0\0\x08IDAT");
    png
}

#[test]
fn every_kind_of_file_becomes_what_pillow_makes_of_it() {
    let bytes = fixture("expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert!(expected.len() >= 30);
    for (name, tensor) in expected.iter() {
        let image = decoded(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let shape = [image.height as usize, image.width as usize, 3];
        assert_eq!(tensor.shape(), shape, "{name}");
        let differences = image
            .rgb
            .iter()
            .zip(tensor.data())
            .map(|(a, b)| a.abs_diff(*b));
        let worst = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / image.rgb.len() as f64;
        println!("{name:<24} worst {worst:>2}  mean {mean:.3}");
        // Lossy decoders differ in their last bits and in how they widen chroma planes. CMYK is
        // rounded at another place.
        let limit = match name {
            _ if name.ends_with(".jpg") || name == "lossy.webp" => 6,
            "cmyk.tif" => 1,
            _ => 0,
        };
        assert!(
            worst <= limit && mean < 1.0,
            "{name}: worst {worst}, mean {mean}"
        );
    }
}

#[test]
fn pixels_pass_through_and_a_wrong_length_is_an_error() {
    let rgb: Vec<u8> = (0..12).collect();
    let sample = Sample::Pixels {
        width: 2,
        height: 2,
        rgb: rgb.clone(),
    };
    assert_eq!(decode(&sample, "x", 100).unwrap().rgb, rgb);
    let short = Sample::Pixels {
        width: 2,
        height: 3,
        rgb,
    };
    assert!(matches!(
        decode(&short, "x", 100),
        Err(DataError::Decode { .. })
    ));
    assert!(matches!(
        decode(&short, "x", 5),
        Err(DataError::TooLarge { limit: 5, .. })
    ));
}

#[test]
fn an_empty_file_says_that_it_is_empty() {
    assert!(reason(vec![]).contains("empty"));
}

#[test]
fn text_with_an_image_extension_is_no_image() {
    let reason = reason(b"<html>404 Not Found</html>".to_vec());
    assert!(
        reason.contains("not an image") && reason.contains("<html>"),
        "{reason}"
    );
}

fn unsupported(bytes: Vec<u8>) -> String {
    match decoded(bytes) {
        Err(DataError::Unsupported { file, reason }) => {
            assert_eq!(file, "a file");
            reason
        }
        other => panic!("expected an unsupported image, got {other:?}"),
    }
}

#[test]
fn heic_and_avif_are_refused_by_name() {
    for (brands, name) in [
        (&b"heic\0\0\0\0mif1"[..], "HEIC"),
        (b"mif1\0\0\0\0heic", "HEIC"),
        (b"avif\0\0\0\0mif1", "AVIF"),
        (b"mif1\0\0\0\0avif", "AVIF"),
    ] {
        let reason = unsupported([b"\0\0\0\x14ftyp", brands].concat());
        assert!(
            reason.starts_with(name) && reason.contains("convert"),
            "{reason}"
        );
    }
}

#[test]
fn kinds_of_jpeg_without_a_decoder_are_unsupported_and_not_corrupt() {
    let file = fixture("rgb.jpg");
    let frame = file.windows(2).position(|two| two == [0xFF, 0xC0]).unwrap();
    for (marker, name) in [
        (0xC3, "lossless"),
        (0xC5, "hierarchical"),
        (0xC9, "arithmetic"),
    ] {
        let mut other = file.clone();
        other[frame + 1] = marker;
        assert!(unsupported(other).contains(name));
    }
    let mut deep = file.clone();
    (deep[frame + 1], deep[frame + 4]) = (0xC1, 12);
    assert!(unsupported(deep).contains("12 bits"));
}

/// A tag of a TIFF, and its values.
type Field<'a> = (u16, &'a [u16]);

/// A classic TIFF of one uncompressed strip, two pixels wide and one high; all other fields are given, and
/// are shorts.
fn tiff(fields: &[Field<'_>], strip: &[u8]) -> Vec<u8> {
    let length = [strip.len() as u16];
    let mut fields: Vec<Field<'_>> = fields.to_vec();
    fields.extend([(256, &[2][..]), (257, &[1]), (259, &[1]), (278, &[1])]);
    // The strip comes behind header and directory, then whatever does not fit into the directory.
    let at = 8 + 2 + 12 * (fields.len() as u16 + 2) + 4;
    let start = [at];
    fields.extend([(273, &start[..]), (279, &length[..])]);
    fields.sort();
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((fields.len() as u16).to_le_bytes());
    let mut tail = strip.to_vec();
    for (tag, values) in fields {
        file.extend([tag.to_le_bytes(), [3, 0]].concat());
        file.extend((values.len() as u32).to_le_bytes());
        let mut bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        if bytes.len() > 4 {
            let offset = u32::from(at) + tail.len() as u32;
            tail.extend(std::mem::replace(&mut bytes, offset.to_le_bytes().to_vec()));
        }
        bytes.resize(4, 0);
        file.extend(bytes);
    }
    [file, vec![0; 4], tail].concat()
}

/// An RGB TIFF of two pixels of the given floating-point samples.
fn float_tiff(samples: [f32; 6]) -> Vec<u8> {
    let strip = samples.map(f32::to_le_bytes).concat();
    let fields: [Field<'_>; 4] = [(258, &[32; 3]), (262, &[2]), (277, &[3]), (339, &[3; 3])];
    tiff(&fields, &strip)
}

#[test]
fn floating_point_tiff_outside_0_to_1_is_unsupported_and_not_white() {
    let rgb = decoded(float_tiff([0.0, 0.5, 1.0, 0.2, 0.4, 0.6]))
        .unwrap()
        .rgb;
    assert_eq!(rgb, [0, 128, 255, 51, 102, 153]);
    for odd in [255.0, -0.5, f32::NAN, f32::INFINITY] {
        let reason = unsupported(float_tiff([0.0, odd, 1.0, 0.2, 0.4, 0.6]));
        assert!(reason.contains("outside 0 to 1"), "{reason}");
    }
    let grey = |samples: [f32; 2]| {
        let strip = samples.map(f32::to_le_bytes).concat();
        tiff(&[(258, &[32]), (262, &[1]), (339, &[3])], &strip)
    };
    assert_eq!(
        decoded(grey([0.2, 1.0])).unwrap().rgb,
        [51, 51, 51, 255, 255, 255]
    );
    assert!(unsupported(grey([0.2, 200.0])).contains("outside 0 to 1"));
}

#[test]
fn grey_tiff_of_any_depth_is_scaled_to_8_bits() {
    let half: Vec<u8> = [0x3400_u16, 0x3C00].map(u16::to_le_bytes).concat();
    let double = [0.25_f64, 1.0].map(f64::to_le_bytes).concat();
    let long = [u32::MAX / 4, u32::MAX].map(u32::to_le_bytes).concat();
    for (bits, format, strip, first) in [
        (2, 1, &[0b0111_0000][..], 85),
        (4, 1, &[0x4F], 68),
        (8, 1, &[64, 255], 64),
        (16, 1, &[0, 64, 255, 255], 64),
        (32, 1, &long, 64),
        (16, 3, &half, 64),
        (64, 3, &double, 64),
    ] {
        let file = tiff(&[(258, &[bits]), (262, &[1]), (339, &[format])], strip);
        let rgb = decoded(file).unwrap().rgb;
        assert_eq!(rgb, [first, first, first, 255, 255, 255], "{bits} bits");
    }
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_unsupported_and_say_what_they_are() {
    let cases: [(&str, &[Field<'_>]); 10] = [
        ("Gray(12)", &[(258, &[12]), (262, &[1])]),
        ("signed samples", &[(258, &[8]), (262, &[1]), (339, &[2])]),
        ("signed samples", &[(258, &[16]), (262, &[1]), (339, &[2])]),
        ("samples of 64 bits", &[(258, &[64]), (262, &[1])]),
        ("reverse order", &[(258, &[8]), (262, &[1]), (266, &[2])]),
        (
            "num_samples: 3",
            &[(258, &[8; 3]), (262, &[1]), (277, &[3]), (338, &[0; 2])],
        ),
        (
            "more than 256",
            &[(258, &[16]), (262, &[3]), (320, &[0; 9])],
        ),
        ("CIELab", &[(258, &[8; 3]), (262, &[8]), (277, &[3])]),
        (
            "predictor",
            &[
                (258, &[8; 5]),
                (262, &[2]),
                (277, &[5]),
                (317, &[2]),
                (338, &[0; 2]),
            ],
        ),
        ("Subsampling", &[(258, &[8; 3]), (262, &[6]), (277, &[3])]),
    ];
    for (kind, fields) in cases {
        let reason = unsupported(tiff(fields, &[0; 64]));
        let found = reason.to_lowercase().contains(&kind.to_lowercase());
        assert!(
            found && reason.contains("convert the image"),
            "{kind}: {reason}"
        );
    }
}

#[test]
fn a_palette_of_too_few_colours_is_damage() {
    let file = tiff(&[(258, &[8]), (262, &[3]), (320, &[0; 9])], &[0, 1]);
    assert!(reason(file).contains("fewer colours"));
}

#[test]
fn a_file_cut_short_anywhere_is_a_bad_file() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "restarts.jpg",
        "cmyk.jpg",
        "orientation-6.jpg",
        "rgba.png",
        "palette.png",
        "rgb16.png",
        "rgb.bmp",
        "rgb.tif",
        "lzw.tif",
        "lossless.webp",
        "lossy.webp",
    ] {
        let whole = fixture(name);
        for tenth in 1..10 {
            let cut = whole[..whole.len() * tenth / 10].to_vec();
            assert!(decoded(cut).is_err(), "{name} cut to {tenth} tenths");
        }
    }
}

#[test]
fn a_jpeg_without_its_last_two_bytes_is_cut_short() {
    for name in ["rgb.jpg", "progressive.jpg", "grey.jpg"] {
        let mut bytes = fixture(name);
        bytes.truncate(bytes.len() - 2);
        assert!(reason(bytes).contains("cut short"), "{name}");
    }
}

#[test]
fn a_jpeg_with_padding_after_its_end_is_whole() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "restarts.jpg",
        "orientation-3.jpg",
    ] {
        let mut bytes = fixture(name);
        let plain = decoded(bytes.clone()).unwrap();
        bytes.extend([0; 100]);
        assert_eq!(decoded(bytes).unwrap(), plain, "{name}");
    }
}

#[test]
fn damage_in_the_middle_never_panics() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "rgba.png",
        "lzw.tif",
        "lossy.webp",
        "rgb.bmp",
    ] {
        let whole = fixture(name);
        for at in 0..whole.len() {
            for value in [0, 0xFF, whole[at] ^ 0x10] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                // A million pixels: damage to the header may announce any size.
                let _ = decode(&Sample::Encoded(damaged), "damaged", 1_000_000);
            }
        }
    }
}

#[test]
fn a_huge_image_is_refused_from_its_header() {
    match decoded(png_header(60_000, 60_000)) {
        Err(DataError::TooLarge {
            width: 60_000,
            height: 60_000,
            limit,
            ..
        }) => {
            assert_eq!(limit, DEFAULT_MAX_PIXELS);
        }
        other => panic!("expected TooLarge, got {other:?}"),
    }
}

#[test]
fn the_limit_counts_pixels_and_includes_itself() {
    let image = || Sample::Encoded(fixture("rgb.jpg"));
    assert!(decode(&image(), "x", 24 * 17).is_ok());
    let message = decode(&image(), "x", 24 * 17 - 1).unwrap_err().to_string();
    assert!(
        message.contains("24 × 17") && message.contains("407"),
        "{message}"
    );
}
