//! What the benchmarks have in common.

use std::error::Error;
use std::time::Instant;

use burn::tensor::Device;

/// The device of that name.
pub fn open(name: &str) -> Result<Device, Box<dyn Error>> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        name => Err(format!("no device `{name}` in this build").into()),
    }
}

/// Milliseconds of many runs, `least` or more, in order of length; after a warm-up, and until the device is done.
pub fn times(
    device: &Device,
    least: usize,
    mut step: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut timed = || {
        let begun = Instant::now();
        step()?;
        device.sync()?;
        Ok::<_, Box<dyn Error>>(begun.elapsed().as_secs_f64() * 1e3)
    };
    let warm = (timed()?, timed()?).1;
    // About two seconds.
    let runs = ((2e3 / warm) as usize).clamp(least, 300);
    let mut times = (0..runs).map(|_| timed()).collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// As the program does: what was freed is used again, and not handed back to the system, which would hand out
/// zeroed pages one by one.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets numbers, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}
