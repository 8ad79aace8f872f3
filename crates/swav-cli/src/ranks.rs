//! The processes that a launcher (`mpirun`, `srun`) has started this one with.

use swav_train::TrainError;
#[cfg(feature = "mpi")]
use swav_train::comm::mpi::Mpi;
use swav_train::comm::{Communicator, Local};

/// The variables by which launchers tell a process how many there are: Open MPI, PMI of MPICH and Slurm, MVAPICH.
const WORLDS: [&str; 4] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "PMIX_SIZE",
    "MV2_COMM_WORLD_SIZE",
];

/// How many processes a launcher says to have started; 1 without one.
fn launched() -> usize {
    let sizes = WORLDS.iter().filter_map(|name| std::env::var(name).ok());
    let sizes = sizes.filter_map(|size| size.parse().ok());
    sizes.max().unwrap_or(1)
}

/// This process among those of its run.
pub struct Ranks {
    #[cfg(feature = "mpi")]
    mpi: Option<Mpi>,
}

#[cfg(not(feature = "mpi"))]
impl Ranks {
    /// Starts what the processes talk through.
    ///
    /// # Errors
    /// If there are several: this binary cannot talk to the others.
    pub fn start() -> Result<Self, TrainError> {
        match launched() {
            1 => Ok(Self {}),
            world => Err(TrainError::Recipe(format!(
                "started as one of {world} processes, but this binary was built without MPI: build it with --features mpi, or \
                 start it once"
            ))),
        }
    }

    pub fn rank(&self) -> usize {
        0
    }

    pub fn world(&self) -> usize {
        1
    }

    pub fn local_rank(&self) -> usize {
        0
    }

    pub fn local_world(&self) -> usize {
        1
    }

    pub fn communicator(&self) -> Box<dyn Communicator> {
        Box::new(Local)
    }

    pub fn end(self, error: Option<u8>, tell: impl FnOnce()) {
        if error.is_some() {
            tell();
        }
    }
}

#[cfg(feature = "mpi")]
impl Ranks {
    /// Starts what the processes talk through, if there are several.
    ///
    /// # Errors
    /// If MPI cannot be used.
    pub fn start() -> Result<Self, TrainError> {
        let mpi = match launched() {
            1 => None,
            _ => Some(Mpi::start()?),
        };
        if let Some(mpi) = &mpi {
            share_processors(mpi);
        }
        Ok(Self { mpi })
    }

    /// Which of the processes this is, from 0.
    pub fn rank(&self) -> usize {
        self.mpi.as_ref().map_or(0, Mpi::rank)
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.mpi.as_ref().map_or(1, Mpi::world)
    }

    /// Which of the processes of this machine this is, from 0.
    pub fn local_rank(&self) -> usize {
        self.mpi.as_ref().map_or(0, Mpi::local_rank)
    }

    /// How many of them this machine has.
    pub fn local_world(&self) -> usize {
        self.mpi.as_ref().map_or(1, Mpi::local_world)
    }

    /// The processes as a run sees them.
    pub fn communicator(&self) -> Box<dyn Communicator> {
        match &self.mpi {
            Some(mpi) => Box::new(mpi.ranks()),
            None => Box::new(Local),
        }
    }

    /// Ends the part of this process, with the exit code of an `error` of its own if it has one; one of the processes that
    /// have an error tells of it.
    pub fn end(self, error: Option<u8>, tell: impl FnOnce()) {
        match self.mpi {
            Some(mpi) => mpi.end(error, tell),
            None if error.is_some() => tell(),
            None => {}
        }
    }
}

/// Gives each process of a machine processors of its own: those that a launcher has bound several processes to are shared out
/// among them, so that all of them together have as many threads as there are processors.
#[cfg(all(feature = "mpi", target_os = "linux"))]
fn share_processors(mpi: &Mpi) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&i| allowed.is_set(i))
        .collect();
    let told = processors.iter().fold(0_u64, |sum, &i| {
        sum.wrapping_mul(0x100_0000_01b3).wrapping_add(i as u64 + 1)
    });
    let all = mpi.on_machine(told);
    let same = |ranks: &[u64]| ranks.iter().filter(|&&other| other == told).count();
    let (place, count) = (same(&all[..mpi.local_rank()]), same(&all));
    let mut own = CpuSet::new();
    let share = place * processors.len() / count..(place + 1) * processors.len() / count;
    match share.is_empty() {
        true => own.set(processors[place % processors.len()]),
        false => processors[share].iter().for_each(|&i| own.set(i)),
    }
    // Without it there are only more threads than processors.
    let _ = sched_setaffinity(None, &own);
}

#[cfg(all(feature = "mpi", not(target_os = "linux")))]
fn share_processors(_: &Mpi) {}
