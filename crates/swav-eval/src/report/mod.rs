//! The report of a run: one page of HTML with all that can be looked at, which needs nothing else.
//!
//! `curves` reads what was written down while training. With a network and images at hand, `look`
//! embeds the images once; `gallery` asks what each prototype stands for, `neighbours` what lies
//! near each image, `map` lays all of them out in the plane, `crops` shows the augmentation at work
//! and `pictures` makes thumbnails of whatever is shown. `page` puts it all into one file.

mod content;
mod crops;
mod curves;
mod gallery;
mod map;
mod neighbours;
mod page;
mod pictures;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use swav_data::Source;
use swav_model::Network;

use swav_train::Plan;
use swav_train::RunDirectory;
use swav_train::files::write_atomic;
use swav_train::observe::{Event, Observer, Watched};
use swav_train::{Interval, Span, Stop, TrainError};

use content::Content;
use curves::Curves;

/// Images that a report looks at where nobody says how many.
pub const IMAGES: usize = 50_000;

/// Images that a report looks at while training goes on, which waits for it.
const IMAGES_WHILE_TRAINING: usize = 5_000;

/// The most images that a report takes: they are counted in 16 bits.
pub const MOST_IMAGES: usize = 1 << 16;

/// What a report is made of.
pub struct Report<'a> {
    /// The run's plan.
    pub plan: &'a Plan,
    /// The run's directory, where its metrics lie.
    pub run: &'a RunDirectory,
    /// The loss of features that tell nothing apart, where it is known.
    pub chance: Option<f64>,
    /// What the network makes of images, if there is one yet.
    pub subject: Option<Subject<'a>>,
}

/// A network and the images that it is shown.
pub struct Subject<'a> {
    /// The network, for evaluation.
    pub network: &'a Network,
    /// Steps that it was trained for.
    pub step: u64,
    /// The images.
    pub source: Arc<dyn Source>,
    /// The most images that are looked at, spread evenly over the source.
    pub images: usize,
    /// Where the network runs, without gradients.
    pub device: &'a Device,
    /// By whom the work is stopped.
    pub stop: &'a Stop,
}

/// What came of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The page.
    pub out: PathBuf,
    /// Its size.
    pub bytes: usize,
    /// Images on the map.
    pub images: usize,
    /// Thumbnails in it.
    pub thumbnails: usize,
}

impl Report<'_> {
    /// Writes the page to `out`; `progress` is told what is being done, and how much of it.
    ///
    /// Takes memory for the embeddings of the images looked at, a few thousand thumbnails, and the page.
    ///
    /// # Errors
    /// If more than [`MOST_IMAGES`] are asked for, the data or the device fails, `out` cannot be written, or the
    /// work is interrupted.
    pub fn write(
        &self,
        out: &Path,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Written, TrainError> {
        let curves = Curves::read(&self.run.metrics(), self.plan.train.batch_size)?;
        let look = match &self.subject {
            Some(subject) => Some(Content::gather(self.plan, subject, progress)?),
            None => None,
        };
        let (images, thumbnails) = look.as_ref().map_or((0, 0), Content::counts);
        let page = page::render(self, &curves, look.as_ref())?;
        write_atomic(out, page.as_bytes())?;
        Ok(Written {
            out: out.to_path_buf(),
            bytes: page.len(),
            images,
            thumbnails,
        })
    }
}

/// Writes the report of a run anew while it goes on.
#[derive(Debug)]
pub struct ReportWriter {
    /// How often; at the end too, unless it is never.
    pub every: Span,
}

impl ReportWriter {
    /// A run does not end because its report fails.
    fn write(&self, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let network = run.state.network.valid();
        let report = Report {
            plan: run.plan,
            run: run.directory,
            chance: run.state.method.chance().loss,
            subject: Some(Subject {
                network: &network,
                step: run.state.step,
                source: run.source.clone(),
                images: IMAGES_WHILE_TRAINING,
                device: run.device,
                stop: run.stop,
            }),
        };
        let out = run.directory.report();
        let mut told = Ok(());
        let written = report.write(&out, &mut |what, done, total| {
            let progress = run.tell(Event::Progress { what, done, total });
            told = std::mem::replace(&mut told, Ok(())).and(progress);
        });
        told?;
        match written {
            // The loop sees for itself that it is to stop.
            Ok(_) | Err(TrainError::Interrupted) => {}
            Err(error) => run.tell(Event::Note(&format!("no report: {error}")))?,
        }
        run.tell(Event::Reported)
    }
}

impl Observer for ReportWriter {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let interval = Interval::of(self.every, run.plan.train.steps_per_epoch);
        match event {
            _ if interval.is_never() => Ok(()),
            Event::Begin if run.plan.train.steps == 0 => self.write(run),
            Event::Step(_) if run.is_due(interval) => self.write(run),
            _ => Ok(()),
        }
    }
}
