//! Scores to test on, the same on every machine, and where to.
#![allow(dead_code)]

pub mod ranks;

use burn::tensor::Device;
use swav_ot::Implementation;

/// A device and the implementation that computes on it.
#[derive(Debug, Clone)]
pub struct Place {
    pub device: Device,
    pub implementation: Implementation,
}

/// Both implementations on the CPU and, where the tests are built for it, on a GPU (or what stands in for one).
pub fn places() -> Vec<Place> {
    let mut devices = vec![Device::flex()];
    if cfg!(feature = "wgpu") {
        devices.push(gpu());
    }
    let both = |device: Device| {
        [Implementation::Fused, Implementation::TensorOps].map(|implementation| Place {
            device: device.clone(),
            implementation,
        })
    };
    devices.into_iter().flat_map(both).collect()
}

/// Both implementations on the CPU alone: for what has not been run on a GPU yet.
pub fn on_cpu() -> Vec<Place> {
    let mut places = places();
    places.retain(|place| place.device == Device::flex());
    places
}

#[cfg(feature = "wgpu")]
pub fn gpu() -> Device {
    Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
}

#[cfg(not(feature = "wgpu"))]
pub fn gpu() -> Device {
    unreachable!("these tests are built without one")
}

/// SplitMix64: small, and good enough for test data.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for last in (1..length).rev() {
            order.swap(last, (self.unit() * (last + 1) as f64) as usize);
        }
        order
    }

    pub fn unit_vector(&mut self, dim: usize) -> Vec<f64> {
        let vector: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        vector.into_iter().map(|value| value / length).collect()
    }
}

/// Numbers uniform in `[low, high)`.
pub fn uniform(length: usize, low: f64, high: f64, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let draw = |_| (low + (high - low) * random.unit()) as f32;
    (0..length).map(draw).collect()
}

/// Cosines between random unit vectors, `samples × prototypes`.
pub fn cosines(samples: usize, prototypes: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let embeddings: Vec<_> = (0..samples).map(|_| random.unit_vector(dim)).collect();
    let prototypes: Vec<_> = (0..prototypes).map(|_| random.unit_vector(dim)).collect();
    let dot = |one: &[f64], other: &[f64]| -> f64 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    };
    embeddings
        .iter()
        .flat_map(|embedding| {
            prototypes
                .iter()
                .map(move |prototype| dot(embedding, prototype) as f32)
        })
        .collect()
}
