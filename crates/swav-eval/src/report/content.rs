//! What a network makes of images: all that the page shows beside curves and settings.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use serde::Serialize;
use swav_data::Source;

use super::crops::{self, Cropped};
use super::gallery::Gallery;
use super::map::Map;
use super::neighbours::{Neighbours, Table};
use super::page::Packed;
use super::pictures::Pictures;
use super::{MOST_IMAGES, Subject};
use crate::{Extraction, Features, Layer, Subset};
use swav_train::Plan;
use swav_train::TrainError;

/// Characters that are shown of a name.
const NAME: usize = 72;

/// Characters of all names together; where they are more, only images with a thumbnail are named.
const NAMES: usize = 3_000_000;

/// Thumbnails that a page has at most.
const THUMBNAILS: usize = 14_000;

/// All that was seen.
#[derive(Serialize)]
pub(super) struct Content {
    step: u64,
    images: usize,
    of: usize,
    described: String,
    skipped: usize,
    classes: Vec<String>,
    /// The class of each image, [`NO_CLASS`] where it has none.
    labels: Packed,
    names: Vec<String>,
    map: Map,
    neighbours: Neighbours,
    gallery: Option<Gallery>,
    pictures: Pictures,
    crops: Vec<Cropped>,
}

/// What stands for the class of an image that has none.
const NO_CLASS: u16 = u16::MAX;

impl Content {
    /// Looks at the images of `subject`.
    pub(super) fn gather(
        plan: &Plan,
        subject: &Subject<'_>,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Self, TrainError> {
        if subject.images > MOST_IMAGES {
            return Err(TrainError::Recipe(format!(
                "a report of {} images: take at most {MOST_IMAGES}, they are spread over the set",
                subject.images
            )));
        }
        let of = subject.source.len();
        let shown: Arc<dyn Source> = Arc::new(Subset::spread(
            subject.source.clone(),
            subject.images.max(2),
        ));
        let total = shown.len();
        let extraction = Extraction {
            plan,
            device: subject.device,
            layer: Layer::Embeddings,
        };
        let network = subject.network;
        let rows = extraction.collect(network, shown.clone(), subject.stop, |done| {
            progress("embedding", done, total);
        })?;

        let mut tell = |what: &str, done, total| {
            progress(what, done, total);
            match subject.stop.requested() {
                true => Err(TrainError::Interrupted),
                false => Ok(()),
            }
        };
        let gallery = Gallery::of(network, &rows, shown.classes(), subject.device, &mut tell)?;
        let table = Table::of(&rows, subject.device, &mut tell)?;
        let map = Map::of(&rows, &table, subject.device, &mut tell)?;
        let neighbours = Neighbours::of(&table, rows.len());

        let wanted = wanted(gallery.as_ref(), &neighbours, rows.len());
        let pictures = Pictures::of(shown.as_ref(), &rows.indices, &wanted, plan, &mut tell)?;
        let crops = crops::of(shown.as_ref(), &rows.indices, plan)?;
        let label = |label: &Option<u32>| label.map_or(NO_CLASS, |label| label as u16);
        Ok(Self {
            step: subject.step,
            images: rows.len(),
            of,
            described: subject.source.describe(),
            skipped: total - rows.len(),
            classes: shown.classes().iter().map(|class| short(class)).collect(),
            labels: Packed::u16(rows.labels.iter().map(label)),
            names: names(shown.as_ref(), &rows, &pictures),
            map,
            neighbours,
            gallery,
            pictures,
            crops,
        })
    }

    /// Images on the map, and thumbnails.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.images, self.pictures.len())
    }
}

/// Rows that are to have a thumbnail, the most important first: the best images of prototypes, the
/// queries with their neighbours, then as many others as there is room for, spread evenly.
fn wanted(gallery: Option<&Gallery>, neighbours: &Neighbours, rows: usize) -> Vec<usize> {
    let mut is_wanted = vec![false; rows];
    let mut wanted = Vec::new();
    let best = gallery.map(Gallery::pictured).into_iter().flatten();
    let spread = (0..rows.min(THUMBNAILS)).map(|i| i * rows / rows.min(THUMBNAILS));
    for row in best.chain(neighbours.pictured()).chain(spread) {
        if wanted.len() < THUMBNAILS && !std::mem::replace(&mut is_wanted[row], true) {
            wanted.push(row);
        }
    }
    wanted.sort_unstable();
    wanted
}

/// What the images are called: where they lie within the set, if that is known.
fn names(source: &dyn Source, rows: &Features, pictures: &Pictures) -> Vec<String> {
    let name = |&index: &usize| match source.relative_path(index) {
        Some(path) => short(&path.to_string_lossy()),
        None => short(&source.name(index)),
    };
    let mut names: Vec<String> = rows.indices.iter().map(name).collect();
    if names.iter().map(String::len).sum::<usize>() > NAMES {
        for (row, name) in names.iter_mut().enumerate() {
            if !pictures.has(row) {
                name.clear();
            }
        }
    }
    names
}

/// A name in at most [`NAME`] characters: its end says more than its beginning.
fn short(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_string();
    }
    let end = name.chars().skip(length + 1 - NAME);
    std::iter::once('…').chain(end).collect()
}

/// The rows `from..to` as a tensor `[to − from, dim]`.
pub(super) fn block(
    rows: &Features,
    from: usize,
    to: usize,
    device: &burn::tensor::Device,
) -> Tensor<2> {
    let values = rows.values[from * rows.dim..to * rows.dim].to_vec();
    Tensor::from_data(TensorData::new(values, [to - from, rows.dim]), device)
}

/// How the parts say how far they are; an error ends them.
pub(super) type Progress<'a> = dyn FnMut(&str, usize, usize) -> Result<(), TrainError> + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_end() {
        let name = format!("{}/cat/ä.jpg", "x".repeat(200));
        let cut = short(&name);
        assert_eq!(cut.chars().count(), NAME);
        assert!(cut.starts_with('…') && cut.ends_with("/cat/ä.jpg"), "{cut}");
        assert_eq!(short("cat/1.jpg"), "cat/1.jpg");
    }
}
