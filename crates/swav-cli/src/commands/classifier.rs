//! What the commands share that train a classifier: from its result to the terminal and to files.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use swav_data::Source;
use swav_eval::LinearResult;
use swav_train::{TrainError, files};

use crate::output::{print, print_json};

/// What `--json` prints and `--out` keeps.
#[derive(Serialize)]
pub struct Report<'a, C: Serialize> {
    pub checkpoint: Option<&'a Path>,
    /// Epochs that the network was trained for.
    pub epoch: Option<f64>,
    pub train: String,
    pub test: String,
    pub labels: String,
    pub images: usize,
    pub config: &'a C,
    pub classes: &'a [String],
    pub by_class: Vec<Option<f64>>,
    #[serde(flatten)]
    pub result: LinearResult,
}

/// Classes that are shown for being told apart worst.
const WORST: usize = 5;

/// The number of classes of the training images.
pub fn two_classes(train: &dyn Source) -> Result<usize, TrainError> {
    let classes = train.classes().len();
    if classes < 2 {
        return Err(TrainError::Recipe(format!(
            "{}: a classifier needs two classes or more; put each class into a folder of its own",
            train.describe()
        )));
    }
    Ok(classes)
}

/// The folder of `out` where the state is kept, made if it is not there.
pub fn state(out: Option<&Path>, resume: bool) -> Result<Option<PathBuf>, TrainError> {
    let Some(out) = out else {
        return Ok(None);
    };
    let state = out.join("state");
    if state.exists() && !resume {
        return Err(TrainError::Checkpoint {
            path: out.to_path_buf(),
            reason:
                "already holds a classifier: continue it with --resume, or choose another --out"
                    .to_string(),
        });
    }
    std::fs::create_dir_all(&state).map_err(|source| TrainError::Io {
        path: state.clone(),
        source,
    })?;
    Ok(Some(state))
}

impl<C: Serialize> Report<'_, C> {
    /// Prints it.
    pub fn tell(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(self);
        }
        print(&self.summary())
    }

    /// The result in a few lines.
    fn summary(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let (scores, best) = (&self.result.scores, &self.result.best);
        let mut text = format!(
            "top-1 {}   top-5 {}   ({} labels, {} images)\nbest  {}   after epoch {} of {}, chosen by the test images",
            percent(scores.top1),
            percent(scores.top5),
            self.labels,
            self.images,
            percent(best.top1),
            best.epoch,
            self.result.epochs.len(),
        );
        let known = self.by_class.iter().enumerate();
        let mut known: Vec<(usize, f64)> = known
            .filter_map(|(c, share)| Some((c, (*share)?)))
            .collect();
        known.sort_by(|a, b| a.1.total_cmp(&b.1));
        text.push_str("\nhardest");
        for (class, share) in known.into_iter().take(WORST) {
            let row = scores.confusion[class].iter().enumerate();
            let taken = row.filter(|&(guess, &count)| guess != class && count > 0);
            let taken = taken.max_by_key(|(_, count)| **count);
            let taken = taken.map_or(String::new(), |(guess, _)| {
                format!(", mostly taken for {}", self.classes[guess])
            });
            let _ = write!(
                text,
                "\n  {:<24} {:>8}{taken}",
                self.classes[class],
                percent(share)
            );
        }
        text
    }

    /// Writes it to `file`, beside which the `names` of the images and the confusion go.
    pub fn keep(&self, file: &Path, names: &[String]) -> anyhow::Result<()> {
        let out = file.parent().unwrap_or(Path::new(""));
        files::write_atomic(file, &serde_json::to_vec_pretty(self)?)?;
        files::write_atomic(
            &out.join("images.txt"),
            (names.join("\n") + "\n").as_bytes(),
        )?;
        let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let header: Vec<String> = self.classes.iter().map(quoted).collect();
        let mut csv = format!("class,{}\n", header.join(","));
        for (class, row) in self.classes.iter().zip(&self.result.scores.confusion) {
            let counts: Vec<String> = row.iter().map(u32::to_string).collect();
            csv.push_str(&format!("{},{}\n", quoted(class), counts.join(",")));
        }
        files::write_atomic(&out.join("confusion.csv"), csv.as_bytes())?;
        Ok(())
    }
}
