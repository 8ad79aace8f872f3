//! The layouts of image sets, and their names in a recipe.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How images and labels are laid out under a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Look and decide; [`open`](crate::open()) says how.
    #[default]
    Auto,
    /// `root/class/**/image`: the first folder names the class.
    Classes,
    /// `root/image`: no labels; folders inside are not looked into.
    Flat,
    /// `root/**/image`: any depth, no labels.
    Nested,
    /// One `.tar` file or a folder of them; the members' first folder names the class.
    Tar,
    /// Tar files in which members with one key are one sample: `1.jpg` and `1.cls`.
    WebDataset,
    /// Parquet files with a column of images, as the Hugging Face hub has them.
    Parquet,
    /// A text file with a path, and perhaps a class, in each line.
    List,
    /// CIFAR-10 or CIFAR-100, binary version.
    Cifar,
    /// IDX files as MNIST has them, gzipped or not.
    Idx,
}

impl Format {
    /// All formats, in the order in which they are documented.
    pub const ALL: [Self; 10] = [
        Self::Auto,
        Self::Classes,
        Self::Flat,
        Self::Nested,
        Self::Tar,
        Self::WebDataset,
        Self::Parquet,
        Self::List,
        Self::Cifar,
        Self::Idx,
    ];

    /// The name as it stands in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Classes => "classes",
            Self::Flat => "flat",
            Self::Nested => "nested",
            Self::Tar => "tar",
            Self::WebDataset => "webdataset",
            Self::Parquet => "parquet",
            Self::List => "list",
            Self::Cifar => "cifar",
            Self::Idx => "idx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::name).join(", ");
                DataError::Invalid(format!(
                    "unknown data format \"{text}\": expected one of {known}"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_back_what_they_print() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let message = "zip".parse::<Format>().unwrap_err().to_string();
        assert!(
            message.contains("zip") && message.contains("classes"),
            "{message}"
        );
    }
}
