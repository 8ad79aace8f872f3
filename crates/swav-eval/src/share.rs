//! A part of the labels: as many of each class, the same ones for a seed.

use std::fmt;
use std::str::FromStr;

use swav_data::{Permutation, Source};

/// How many of the labels are used, as people write it: `1%`, `10%`, `100%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(1.0);

    /// The indices of the images whose labels are used, in order: of each class this share, rounded to the nearest
    /// number and at least one, by `seed`. Images without exactly one label are left out.
    pub fn of(self, source: &dyn Source, seed: u64) -> Vec<usize> {
        let mut classes = vec![Vec::new(); source.classes().len()];
        for index in 0..source.len() {
            if let Some(label) = source.label(index) {
                classes[label as usize].push(index);
            }
        }
        let chosen = classes.iter().enumerate().flat_map(|(class, images)| {
            let count = (self.0 * images.len() as f64).round() as usize;
            let count = count.max(1).min(images.len());
            let order = Permutation::new(images.len() as u64, seed, class as u64);
            (0..count as u64).map(move |place| images[order.at(place) as usize])
        });
        let mut chosen: Vec<usize> = chosen.collect();
        chosen.sort_unstable();
        chosen
    }

    /// Above 0, at most 1.
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// Whether it is all of them.
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text
            .strip_suffix('%')
            .and_then(|n| n.trim().parse::<f64>().ok());
        match number {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(percent / 100.0)),
            _ => Err(format!(
                "`{text}` is no share of the labels: write 1%, 10% or 100%"
            )),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swav_data::{DataError, Sample};

    /// 100 images of class 0, 10 of class 1, one of class 2, and one without a label.
    struct Uneven(Vec<String>);

    impl Source for Uneven {
        fn len(&self) -> usize {
            112
        }
        fn read(&self, _: usize) -> Result<Sample, DataError> {
            unreachable!("labels are not read from images")
        }
        fn name(&self, index: usize) -> String {
            index.to_string()
        }
        fn label(&self, index: usize) -> Option<u32> {
            match index {
                0..100 => Some(0),
                100..110 => Some(1),
                110 => Some(2),
                _ => None,
            }
        }
        fn classes(&self) -> &[String] {
            &self.0
        }
        fn describe(&self) -> String {
            String::new()
        }
    }

    fn chosen(share: &str, seed: u64) -> Vec<usize> {
        let source = Uneven(["a", "b", "c"].map(str::to_string).to_vec());
        share.parse::<Share>().unwrap().of(&source, seed)
    }

    #[test]
    fn every_class_has_its_share_and_at_least_one() {
        let found = chosen("10%", 1);
        let of = |range: std::ops::Range<usize>| found.iter().filter(|i| range.contains(i)).count();
        assert_eq!(
            [of(0..100), of(100..110), of(110..111), of(111..112)],
            [10, 1, 1, 0]
        );
        assert!(found.is_sorted());
        assert_eq!(chosen("100%", 1), (0..111).collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_stands_for_one_subset() {
        assert_eq!(chosen("10%", 1), chosen("10%", 1));
        assert_ne!(chosen("10%", 1), chosen("10%", 2));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["0%", "-1%", "101%", "10", "ten%", "NaN%", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert_eq!("1%".parse::<Share>().unwrap().to_string(), "1%");
    }
}
