//! Random numbers that depend on a seed alone.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// A stream of random numbers for what a run begins with.
///
/// The numbers are drawn on the host and then uploaded: a seed means the same weights on every device. A device's own
/// stream would not, and it is one for the whole process.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
    device: Device,
}

impl Draw {
    /// Returns the stream of `seed`; tensors lie on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            state: seed,
            device: device.clone(),
        }
    }

    /// Returns the device that tensors lie on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Draws from N(0, `deviation`²).
    pub fn normal<const D: usize>(&mut self, deviation: f64, shape: [usize; D]) -> Tensor<D> {
        let length: usize = shape.iter().product();
        let mut values = Vec::with_capacity(length.next_multiple_of(2));
        // Box and Muller, 1958: two at a time.
        while values.len() < length {
            let radius = deviation * (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        values.truncate(length);
        self.tensor(values, shape)
    }

    /// Draws from U(−`limit`, `limit`).
    pub fn uniform<const D: usize>(&mut self, limit: f64, shape: [usize; D]) -> Tensor<D> {
        let values = (0..shape.iter().product::<usize>())
            .map(|_| (limit * (2.0 * self.unit() - 1.0)) as f32)
            .collect();
        self.tensor(values, shape)
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32))
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// SplitMix64 (Steele et al., OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    #[test]
    fn a_seed_means_the_same_numbers_and_another_seed_others() {
        let device = Device::flex();
        let drawn = |seed| values(Draw::new(seed, &device).normal(1.0, [3, 5]));
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn numbers_have_the_moments_of_their_distribution() {
        let mut draw = Draw::new(1, &Device::flex());
        let moments = |values: Vec<f32>| {
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let square = values.iter().map(|&v| (f64::from(v) - mean).powi(2));
            (mean, (square.sum::<f64>() / n).sqrt())
        };
        let (mean, deviation) = moments(values(draw.normal(0.5, [200_001])));
        assert!(mean.abs() < 0.005 && (deviation - 0.5).abs() < 0.005);
        let uniform = values(draw.uniform(0.3, [200_000]));
        assert!(uniform.iter().all(|value| value.abs() <= 0.3));
        let (mean, deviation) = moments(uniform);
        assert!(mean.abs() < 0.003 && (deviation - 0.3 / 3_f64.sqrt()).abs() < 0.003);
    }
}
