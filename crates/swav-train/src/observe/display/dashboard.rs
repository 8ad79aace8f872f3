//! The dashboard: curves and progress in the terminal, drawn by burn-train's renderer.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use burn_train::Interrupter;
use burn_train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn_train::renderer::{MetricState, MetricsRenderer, default_renderer};

use super::{say, short, spoken};
use crate::TrainError;
use crate::observe::{Event, KnnRecord, Observer, Outcome, StepRecord, Watched};
use crate::plan::Plan;

/// Drives burn-train's terminal renderer from our own loop.
pub struct Dashboard {
    /// None once the user has killed it: the renderer then panics at every call.
    renderer: Option<Box<dyn MetricsRenderer>>,
    interrupter: Interrupter,
    steps_per_epoch: u64,
    epoch: u64,
    killed: bool,
    /// The method's own numbers that have a chart already.
    own: HashSet<String>,
    /// Said again on stderr when the terminal is ours again.
    notes: Vec<String>,
    /// Behind the renderer in this list, and so given back after it.
    #[cfg(unix)]
    stderr: Option<Aside>,
}

const METRICS: [(&str, bool); 5] = [
    ("Loss", false),
    ("kNN accuracy", true),
    ("Learning rate", true),
    ("Images per second", true),
    ("Waiting for data", false),
];

impl Dashboard {
    /// Whether a dashboard can be shown: stdout and stdin are a terminal.
    pub fn possible() -> bool {
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
    }

    /// Takes over the terminal.
    pub fn new() -> Self {
        let interrupter = Interrupter::new();
        #[cfg(unix)]
        let stderr = Aside::begin();
        let mut dashboard = Self {
            renderer: Some(default_renderer(interrupter.clone(), None)),
            interrupter,
            steps_per_epoch: 1,
            epoch: 0,
            killed: false,
            own: HashSet::new(),
            notes: Vec::new(),
            #[cfg(unix)]
            stderr,
        };
        #[cfg(unix)]
        keep_ctrl_c();
        dashboard.with(|renderer| {
            for (name, higher_is_better) in METRICS {
                register(renderer, name, higher_is_better);
            }
        });
        dashboard
    }

    /// Calls the renderer. Its "kill" key answers with a panic, which here means: end, but save.
    fn with(&mut self, call: impl FnOnce(&mut dyn MetricsRenderer)) {
        let Some(renderer) = &mut self.renderer else {
            return;
        };
        if catch_unwind(AssertUnwindSafe(|| call(renderer.as_mut()))).is_err() {
            self.killed = true;
            self.close();
        }
    }

    /// Gives the terminal back.
    fn close(&mut self) {
        let renderer = self.renderer.take();
        // Dropping it after a kill panics once more, after its thread has been told to end.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(renderer)));
        #[cfg(unix)]
        drop(self.stderr.take());
    }

    fn show(&mut self, metric: &str, value: f64, text: String) {
        let id = MetricId::new(Arc::new(metric.to_string()));
        let entry = MetricEntry::new(id, SerializedEntry::new(text, value.to_string()));
        self.with(|renderer| {
            renderer.update_train(MetricState::Numeric(
                entry,
                Some(NumericEntry::Value(value)),
            ));
        });
    }
}

impl Default for Dashboard {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Dashboard {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin => self.begin(run.plan, run.state.step),
            Event::Logged(record) => self.step(record),
            Event::Knn(record) => self.knn(record),
            Event::Note(message) => self.note(message),
            Event::Progress { what, done, total } => self.progress(what, done, total),
            Event::End(outcome) => self.end(outcome),
            _ => {}
        }
        if self.killed || self.interrupter.should_stop() {
            run.stop.request();
        }
        Ok(())
    }
}

impl Dashboard {
    fn begin(&mut self, plan: &Plan, step: u64) {
        self.steps_per_epoch = plan.train.steps_per_epoch.max(1);
        self.epoch = step / self.steps_per_epoch;
        let (epochs, first) = (plan.train.epochs as usize, self.epoch as usize + 1);
        let items = self.steps_per_epoch as usize;
        self.with(|renderer| {
            renderer.start(epochs, first, Some(items), Some("swav"));
            renderer.start_split("train", items);
        });
    }

    fn step(&mut self, record: &StepRecord) {
        self.show("Loss", record.loss, format!("{:.4}", record.loss));
        self.show("Learning rate", record.lr, format!("{:.3e}", record.lr));
        let speed = record.images_per_s;
        self.show("Images per second", speed, format!("{speed:.0}"));
        let share = 100.0 * record.wait_share;
        self.show("Waiting for data", share, format!("{share:.0} %"));
        for (name, &value) in &record.method {
            let name = spoken(name);
            if self.own.insert(name.clone()) {
                self.with(|renderer| register(renderer, &name, true));
            }
            self.show(&name, value, short(value));
        }

        let epoch = (record.step - 1) / self.steps_per_epoch;
        let within = (record.step - epoch * self.steps_per_epoch) as usize;
        let items = self.steps_per_epoch as usize;
        let turned = epoch != self.epoch;
        self.epoch = epoch;
        self.with(|renderer| {
            if turned {
                renderer.end_split();
                renderer.update_epoch(epoch as usize);
                renderer.start_split("train", items);
            }
            renderer.update_split(within);
        });
    }

    fn knn(&mut self, record: &KnnRecord) {
        let percent = 100.0 * record.knn;
        self.show("kNN accuracy", percent, format!("{percent:.1} %"));
    }

    fn note(&mut self, message: &str) {
        self.notes.push(message.to_string());
        let message = message.to_string();
        self.with(|renderer| renderer.log_event_training(message));
    }

    fn progress(&mut self, what: &str, done: usize, total: usize) {
        if done >= total {
            let message = format!("{what}: {total} images");
            self.with(|renderer| renderer.log_event_training(message));
        }
    }

    fn end(&mut self, outcome: Result<&Outcome, &TrainError>) {
        self.with(|renderer| {
            renderer.end();
        });
        self.close();
        for note in &self.notes {
            say(note);
        }
        if matches!(outcome, Ok(Outcome::Interrupted)) {
            say("interrupted; the state is saved");
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is written to stderr while the terminal shows the dashboard: put aside in a file, and written to stderr at the end.
///
/// It would tear the picture. And where the terminal is closed, the renderer's thread finds an error, ends, and finds another
/// while it ends; telling of that on a stderr that is closed too is a panic within a panic, which ends the process.
#[cfg(unix)]
struct Aside {
    stderr: rustix::fd::OwnedFd,
    file: std::fs::File,
}

#[cfg(unix)]
impl Aside {
    /// None if stderr is no terminal, and so in nobody's way.
    fn begin() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let file = tempfile::tempfile().ok()?;
        let stderr = rustix::io::dup(std::io::stderr()).ok()?;
        rustix::stdio::dup2_stderr(&file).ok()?;
        Some(Self { stderr, file })
    }
}

#[cfg(unix)]
impl Drop for Aside {
    fn drop(&mut self) {
        use std::io::{Seek, copy, stderr};
        // Without a terminal there is nobody to tell of a failure.
        let _ = rustix::stdio::dup2_stderr(&self.stderr);
        let _ = self.file.rewind();
        let _ = copy(&mut self.file, &mut stderr());
    }
}

/// Gives a number a chart of its own.
fn register(renderer: &mut dyn MetricsRenderer, name: &str, higher_is_better: bool) {
    let name = Arc::new(name.to_string());
    renderer.register_metric(MetricDefinition {
        metric_id: MetricId::new(name.clone()),
        name,
        description: None,
        attributes: MetricAttributes::Numeric(NumericAttributes {
            unit: None,
            higher_is_better,
        }),
    });
}

/// Lets Ctrl-C raise its signal again, which the renderer's raw mode had turned into a mere key.
#[cfg(unix)]
fn keep_ctrl_c() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::time::{Duration, Instant};

    let stdin = std::io::stdin();
    // The renderer sets raw mode in a thread of its own, a moment after it was made.
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        let Ok(mut modes) = tcgetattr(&stdin) else {
            return;
        };
        if !modes.local_modes.contains(LocalModes::ICANON) {
            modes.local_modes.insert(LocalModes::ISIG);
            // Without it the dashboard's own `q` still ends the run.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &modes);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
