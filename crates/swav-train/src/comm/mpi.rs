//! MPI: the ranks that `mpirun`, `srun` or an operator of Kubernetes has started.

use std::ffi::c_int;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::collective::SystemOperation;
use ::mpi::environment::Universe;
use ::mpi::request::StaticScope;
use ::mpi::topology::{Color, SimpleCommunicator};
use ::mpi::traits::*;

use super::{Engine, Host};
use crate::TrainError;
use crate::observe::display::insist;

/// How often a rank says that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// After how long without a word a rank is given up; `SWAV_RANK_TIMEOUT` sets another number of seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a rank that has failed waits for the others to have failed alike.
const TOGETHER: Duration = Duration::from_secs(5);

/// The exit code when another rank has failed.
pub const RANK_FAILED: u8 = 6;

/// A communicator of MPI that threads may share.
struct Shared(SimpleCommunicator);

// SAFETY: a communicator is a handle, and MPI was started for calls from any thread (`Threading::Multiple`).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.0.rank(), self.0.size())
    }
}

/// A process of a run that MPI has started. When it is dropped, MPI ends.
pub struct Mpi {
    engine: Arc<Ranks>,
    /// On which ranks agree how they end.
    last_words: Shared,
    _heart: Option<Heart>,
    /// The ranks of this machine.
    machine: Shared,
    /// Last, so that no communicator is left when it ends.
    _universe: Universe,
}

impl Mpi {
    /// Starts MPI, and to watch over the other ranks.
    ///
    /// # Errors
    /// If MPI has no threads, or was started before.
    pub fn start() -> Result<Self, TrainError> {
        let failed = |reason: &str| TrainError::Device(format!("MPI cannot be used: {reason}"));
        let Some((universe, threading)) = ::mpi::initialize_with_threading(Threading::Multiple)
        else {
            return Err(failed("it was started before"));
        };
        if threading != Threading::Multiple {
            return Err(failed(
                "it was built without MPI_THREAD_MULTIPLE, which the watch over the ranks needs",
            ));
        }
        let world = universe.world();
        let machine = world.split_shared(world.rank());
        let heart = (world.size() > 1).then(|| Heart::start(Shared(world.duplicate())));
        Ok(Self {
            engine: Arc::new(Ranks::new(world.duplicate())),
            last_words: Shared(world.duplicate()),
            _heart: heart,
            machine: Shared(machine),
            _universe: universe,
        })
    }

    /// The ranks as a run sees them.
    pub fn ranks(&self) -> Host {
        Host::new(self.engine.clone())
    }

    /// Which of the ranks this is, from 0.
    pub fn rank(&self) -> usize {
        self.engine.rank()
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.engine.world()
    }

    /// Which of the ranks of this machine this is, from 0: it takes the card of that number.
    pub fn local_rank(&self) -> usize {
        self.machine.0.rank() as usize
    }

    /// How many ranks this machine has.
    pub fn local_world(&self) -> usize {
        self.machine.0.size() as usize
    }

    /// What each rank of this machine says, in the order of the ranks.
    pub fn on_machine(&self, value: u64) -> Vec<u64> {
        let mut all = vec![0; self.local_world()];
        self.machine.0.all_gather_into(&value, &mut all[..]);
        all
    }

    /// Ends the part of this rank, with the exit code of an `error` of its own if it has one. Of the ranks that have one, the first
    /// [tells](FnOnce) of it. Where the others go on, a rank with an error tells of it and ends them too.
    pub fn end(self, error: Option<u8>, tell: impl FnOnce()) {
        // They stay for good: a rank may leave while MPI still writes to them.
        let own: &'static i32 = Box::leak(Box::new(match error {
            Some(_) => self.rank() as i32,
            None => i32::MAX,
        }));
        let teller: &'static mut i32 = Box::leak(Box::new(i32::MAX));
        let mut request = self.last_words.0.immediate_all_reduce_into(
            StaticScope,
            own,
            teller,
            SystemOperation::min(),
        );
        let began = Instant::now();
        let teller = loop {
            request = match request.test_with_data() {
                Ok((_, teller)) => break *teller,
                Err(pending) => pending,
            };
            if let Some(code) = error
                && began.elapsed() > TOGETHER
            {
                tell();
                self.abort(code);
            }
            thread::sleep(Duration::from_millis(1));
        };
        if teller == self.rank() as i32 {
            tell();
        }
    }

    /// Ends all ranks at once, with an exit code.
    pub fn abort(&self, code: u8) -> ! {
        self.engine.world.0.abort(c_int::from(code))
    }
}

/// The watch over the ranks: each tells the next one every second that it is alive, whatever else it does, and listens to the one
/// before it. When that one has been silent for too long, its machine or its network is gone, or somebody has stopped it: all
/// ranks are ended, rather than wait for it for ever.
struct Heart {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    fn start(world: Shared) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let thread = thread::spawn(move || beat(&world, &ended));
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Where it has panicked, that has been told.
            let _ended = thread.join();
        }
    }
}

fn beat(world: &Shared, ended: &AtomicBool) {
    let world = &world.0;
    let patience = std::env::var("SWAV_RANK_TIMEOUT").ok();
    let patience = patience.and_then(|seconds| seconds.parse().ok());
    let patience = patience.map_or(PATIENCE, Duration::from_secs);
    let (rank, size) = (world.rank(), world.size());
    let before = (rank + size - 1) % size;
    let next = world.process_at_rank((rank + 1) % size);
    let mut heard = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        next.send(&0_u8);
        while world.process_at_rank(before).immediate_probe().is_some() {
            world.process_at_rank(before).receive::<u8>();
            heard = Instant::now();
        }
        if heard.elapsed() > patience {
            insist(format_args!(
                "error: rank {before} of {size} has not been heard of for {} s: it is stopped, or its machine or network is \
                 gone. All ranks end; checkpoints are intact, continue with --resume",
                patience.as_secs()
            ));
            world.abort(c_int::from(RANK_FAILED));
        }
        thread::park_timeout(BEAT);
    }
}

/// Collective operations of MPI.
#[derive(Debug)]
struct Ranks {
    world: Shared,
}

impl Ranks {
    fn new(world: SimpleCommunicator) -> Self {
        Self {
            world: Shared(world),
        }
    }
}

/// Elements of one message at most: MPI counts them with 31 bits.
const LONGEST: usize = 1 << 28;

impl Engine for Ranks {
    fn rank(&self) -> usize {
        self.world.0.rank() as usize
    }

    fn world(&self) -> usize {
        self.world.0.size() as usize
    }

    fn sum_f32(&self, values: &mut Vec<f32>) {
        let mut sums = vec![0.0; values.len()];
        let parts = values.chunks(LONGEST).zip(sums.chunks_mut(LONGEST));
        for (own, sums) in parts {
            self.world
                .0
                .all_reduce_into(own, sums, SystemOperation::sum());
        }
        *values = sums;
    }

    fn sum_f64(&self, values: &mut [f64]) {
        let own = values.to_vec();
        self.world
            .0
            .all_reduce_into(&own[..], values, SystemOperation::sum());
    }

    fn max_f32(&self, values: &mut [f32]) {
        let own = values.to_vec();
        self.world
            .0
            .all_reduce_into(&own[..], values, SystemOperation::max());
    }

    fn gather(&self, own: &[u8]) -> Vec<u8> {
        // The address of an empty slice may be the one that MPI takes for `MPI_IN_PLACE`.
        if own.is_empty() {
            return Vec::new();
        }
        let mut all = vec![0; own.len() * self.world()];
        self.world.0.all_gather_into(own, &mut all[..]);
        all
    }

    fn gather_on_first(&self, own: &[u8]) -> Vec<u8> {
        if own.is_empty() {
            return Vec::new();
        }
        let first = self.world.0.process_at_rank(0);
        if self.rank() > 0 {
            first.gather_into(own);
            return Vec::new();
        }
        let mut all = vec![0; own.len() * self.world()];
        first.gather_into_root(own, &mut all[..]);
        all
    }

    fn group(&self, size: usize) -> Arc<dyn Engine> {
        let number = (self.rank() / size) as i32;
        let group = self.world.0.split_by_color(Color::with_value(number));
        match group {
            Some(group) => Arc::new(Self::new(group)),
            None => unreachable!("every rank has a group"),
        }
    }
}
