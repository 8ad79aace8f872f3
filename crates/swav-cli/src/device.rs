//! Which device a command runs on. The only place that names a backend.

use std::fmt;
use std::panic::{UnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{DType, Device, DeviceType};
use swav_model::ops::has_maps_of;
use swav_train::TrainError;
use swav_train::precision::Bf16;

use crate::memory::{self, Capacity};
use crate::ranks::Ranks;

/// `--device auto|cpu|wgpu[:i]|cuda[:i]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best one there is: CUDA, then a GPU through wgpu, then the CPU.
    Auto,
    /// The CPU, through Flex.
    Cpu,
    /// The i-th device of wgpu.
    Wgpu(usize),
    /// The i-th CUDA device.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => {
                let index = index
                    .parse()
                    .map_err(|_| format!("`{index}` is no device number"))?;
                (name, Some(index))
            }
            None => (text, None),
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", index) => Ok(Self::Wgpu(index.unwrap_or(0))),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err("expected auto, cpu, wgpu, wgpu:1, cuda or cuda:1".to_string()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A device that is there.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it is asked for.
    pub choice: Choice,
    /// What it is called.
    pub name: String,
    /// Whether it is a GPU, rather than a processor behind a GPU's interface.
    pub accelerated: bool,
    /// Its memory, if that is known. WebGPU does not tell.
    pub memory: Option<Capacity>,
    /// The handle.
    pub device: Device,
}

impl Found {
    /// What the device does with maps of 16 bits. It is started to be asked.
    pub fn bf16(&self) -> Bf16 {
        match self.choice {
            // Its kernels multiply in 32 bits.
            Choice::Cpu => Bf16::Smaller,
            _ if !has_maps_of(&self.device, DType::BF16) => Bf16::Missing,
            #[cfg(feature = "cuda")]
            Choice::Cuda(index) if cuda_generation(index) >= Some(AMPERE) => Bf16::Faster,
            _ => Bf16::Smaller,
        }
    }
}

impl Choice {
    /// The device itself.
    ///
    /// # Errors
    /// If it is not there, or this binary was built without its backend.
    pub fn open(self) -> Result<Found, TrainError> {
        let found = self.find()?;
        found.choice.make_default();
        Ok(found)
    }

    /// The device that a rank of a run is to take: of the cards of a machine that of its number, and of the memory of a machine
    /// its share.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(self, ranks: &Ranks) -> Result<Found, TrainError> {
        let own = match self {
            Self::Cuda(0) => Self::Cuda(ranks.local_rank()),
            Self::Auto if ranks.world() > 1 => match best(all())?.choice {
                Self::Cuda(_) => Self::Cuda(ranks.local_rank()),
                other => other,
            },
            other => other,
        };
        let mut found = own.open()?;
        if !matches!(own, Self::Cuda(_)) {
            found.memory = found
                .memory
                .map(|memory| memory.share(ranks.local_world() as u64));
        }
        Ok(found)
    }

    fn find(self) -> Result<Found, TrainError> {
        if self == Self::Auto {
            return best(all());
        }
        // Only its own backend is asked: starting another takes a moment, and what its driver has to say is of no interest.
        self.neighbours()
            .into_iter()
            .find(|device| device.choice == self)
            .ok_or_else(|| {
                let names: Vec<_> = all().iter().map(|d| d.choice.to_string()).collect();
                let missing = match self {
                    Self::Wgpu(_) if !cfg!(feature = "wgpu") => Some("wgpu"),
                    Self::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
                    Self::Cpu if !cfg!(feature = "flex") => Some("flex"),
                    _ => None,
                };
                let what = match missing {
                    Some(feature) => {
                        format!("this binary was built without it: build with --features {feature}")
                    }
                    None => "it is not there".to_string(),
                };
                TrainError::Device(format!(
                    "--device {self}: {what}. There is: {}",
                    names.join(", ")
                ))
            })
    }
}

impl Choice {
    /// Makes its backend the one that Burn takes where it is told none: it reads the moments of an optimizer back that way,
    /// and would start the first backend of the binary for it, whether or not there is a device.
    fn make_default(self) {
        let name = match self {
            Self::Auto => return,
            Self::Cpu => "flex",
            Self::Wgpu(_) => "wgpu",
            Self::Cuda(_) => "cuda",
        };
        // SAFETY: commands open a device before they start a thread. The threads that there are, of the signal handler and of
        // drivers that were asked for their devices, wait and read no variables.
        unsafe { std::env::set_var("BURN_DEVICE", name) };
    }

    /// The devices of its backend.
    fn neighbours(self) -> Vec<Found> {
        match self {
            Self::Auto => all(),
            #[cfg(feature = "flex")]
            Self::Cpu => listed(DeviceType::Flex, |_| Self::Cpu),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(_) => listed(DeviceType::Wgpu, Self::Wgpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => listed(DeviceType::Cuda, Self::Cuda),
            #[allow(unreachable_patterns)] // in a binary with every backend
            _ => Vec::new(),
        }
    }
}

fn best(found: Vec<Found>) -> Result<Found, TrainError> {
    let rank = |device: &Found| match device.choice {
        Choice::Cuda(_) => 0,
        Choice::Wgpu(_) if device.accelerated => 1,
        Choice::Cpu => 2,
        _ => 3,
    };
    found.into_iter().min_by_key(rank).ok_or_else(|| {
        TrainError::Device("no device: this binary was built without any backend".to_string())
    })
}

/// What another device is compared with: the CPU, or in a binary without it the device itself.
pub fn reference(found: &Found) -> Device {
    let cpu = Choice::Cpu.neighbours().into_iter().next();
    cpu.map_or_else(|| found.device.clone(), |cpu| cpu.device)
}

/// Every device of every backend in this binary.
pub fn all() -> Vec<Found> {
    [Choice::Cuda(0), Choice::Wgpu(0), Choice::Cpu]
        .into_iter()
        .flat_map(Choice::neighbours)
        .collect()
}

/// The devices of one backend. A driver that is not installed makes Burn panic; then there is none.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "flex"))]
fn listed(kind: DeviceType, choice: impl Fn(usize) -> Choice) -> Vec<Found> {
    let devices = quietly(|| Device::enumerate(kind).into_iter().collect::<Vec<_>>());
    devices
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(index, device)| describe(choice(index), device))
        .collect()
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "flex"))]
fn describe(choice: Choice, device: Device) -> Found {
    let (name, accelerated) = match choice {
        Choice::Cpu => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            (format!("CPU, {threads} threads (Flex)"), false)
        }
        _ => {
            // A software adapter calls itself a CPU in its handle.
            let software = format!("{device:?}").contains("Cpu");
            (hardware_name(&device), !software)
        }
    };
    Found {
        choice,
        name,
        accelerated,
        memory: memory_of(choice),
        device,
    }
}

/// What a device has for training.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "flex"))]
fn memory_of(choice: Choice) -> Option<Capacity> {
    match choice {
        Choice::Cpu => memory::host(),
        #[cfg(feature = "cuda")]
        Choice::Cuda(index) => cuda_memory(index),
        _ => None,
    }
}

/// All memory of a card, less a part for the driver and what else draws on it.
#[cfg(feature = "cuda")]
fn cuda_memory(index: usize) -> Option<Capacity> {
    let total = ask_card(index, |card| {
        // SAFETY: the driver has just given the handle.
        unsafe { cudarc::driver::result::device::total_mem(card) }.ok()
    })?;
    let total = total as u64 / 20 * 19;
    let available = total;
    Some(Capacity { total, available })
}

/// The first compute capability whose tensor cores multiply `bf16`.
#[cfg(feature = "cuda")]
const AMPERE: i32 = 8;

/// The major number of a card's compute capability.
#[cfg(feature = "cuda")]
fn cuda_generation(index: usize) -> Option<i32> {
    use cudarc::driver::{result, sys::CUdevice_attribute_enum as Attribute};
    ask_card(index, |card| {
        let major = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        // SAFETY: the driver has just given the handle.
        unsafe { result::device::get_attribute(card, major) }.ok()
    })
}

/// What the driver answers about a card; nothing where there is no driver or no such card.
#[cfg(feature = "cuda")]
fn ask_card<T>(
    index: usize,
    ask: impl FnOnce(cudarc::driver::sys::CUdevice) -> Option<T> + UnwindSafe,
) -> Option<T> {
    use cudarc::driver::result;
    quietly(move || {
        result::init().ok()?;
        ask(result::device::get(i32::try_from(index).ok()?).ok()?)
    })
    .flatten()
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn hardware_name(device: &Device) -> String {
    let handle = device.clone();
    quietly(move || handle.identity().map(|identity| identity.name))
        .flatten()
        .unwrap_or_else(|| format!("{device:?}"))
}

#[cfg(all(feature = "flex", not(any(feature = "cuda", feature = "wgpu"))))]
fn hardware_name(device: &Device) -> String {
    format!("{device:?}")
}

/// Runs what may panic for want of a driver, without a word on the terminal.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "flex"))]
fn quietly<T>(call: impl FnOnce() -> T + UnwindSafe) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(call);
    std::panic::set_hook(hook);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_asked_for_by_name_and_number() {
        assert_eq!("cuda:1".parse(), Ok(Choice::Cuda(1)));
        assert_eq!("wgpu".parse(), Ok(Choice::Wgpu(0)));
        for wrong in ["gpu", "cpu:1", "cuda:x", "", "auto:0"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        assert!(Choice::Cpu.open().is_ok());
    }
}
