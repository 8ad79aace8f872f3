//! What a user, a terminal or a scheduler sends to end the program.

use std::process::exit;
use std::time::{Duration, Instant};

use swav_train::Stop;
use swav_train::observe::display::say;

use crate::INTERRUPTED;

/// Signals this close together are one wish: `timeout` and schedulers send theirs to the process and again to its group.
const TOGETHER: Duration = Duration::from_secs(1);

/// Who asks for an end, and when first.
struct Asked {
    stop: Stop,
    first: Option<Instant>,
}

impl Asked {
    /// The first time asks for a clean stop, the second ends the program: checkpoints are complete or not there, so that
    /// nothing is lost but the steps since the last one. While nothing asks whether it is to stop, there is no state to
    /// save, and the first time ends the program.
    fn again(&mut self, insists: bool) {
        match self.first {
            _ if !self.stop.is_heeded() => exit(i32::from(INTERRUPTED)),
            None => {
                self.first = Some(Instant::now());
                self.stop.request();
                say("stopping after this step; once more to stop at once");
            }
            Some(first) if insists && first.elapsed() > TOGETHER => exit(i32::from(INTERRUPTED)),
            Some(_) => {}
        }
    }
}

/// A wish to stop that comes from Ctrl-C, from `kill`, from a terminal that is closed, or from a scheduler that warns of
/// the end (SIGUSR1, SIGUSR2).
pub fn listen() -> Stop {
    let stop = Stop::default();
    let asked = Asked {
        stop: stop.clone(),
        first: None,
    };
    if let Err(error) = start(asked) {
        say(format_args!(
            "note: Ctrl-C will not save the state: {error}"
        ));
    }
    stop
}

#[cfg(unix)]
fn start(mut asked: Asked) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    std::thread::Builder::new()
        .name("signals".to_string())
        .spawn(move || {
            for signal in signals.forever() {
                // A warning may come twice, and a terminal that is gone says so as often as it likes.
                asked.again(matches!(signal, SIGINT | SIGTERM));
            }
        })?;
    Ok(())
}

#[cfg(not(unix))]
fn start(mut asked: Asked) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || asked.again(true))
}
