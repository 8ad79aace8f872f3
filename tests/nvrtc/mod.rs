//! Compiles kernels for NVIDIA GPUs where there is none.
//!
//! A crate with kernels includes this file in its tests, under its feature `nvrtc`. The way is that of `cubecl-cuda`
//! (`compute/context.rs` and `runtime.rs`, 0.11.3): a kernel's definition goes to CUDA C++, and that through NVRTC to machine code, with
//! the same options. What `cubecl-cuda` asks the device is written down here. Neither a driver nor LLVM is needed, only NVRTC in
//! the path of libraries, and the headers of CUDA in `$SWAV_CUDA_PATH/include` or `$CUDA_PATH/include`; `cargo xtask nvrtc` fetches both.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cubecl::ir::features::{Features, Plane};
use cubecl::ir::{DeviceIdentity, HardwareProperties, MemoryDeviceProperties, VectorSize};
use cubecl::prelude::*;
use cubecl::profile::TimingMethod;
use cubecl::{Compiler, define_kernel};
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

/// Compute capabilities that are compiled for: A100 and H100.
const CAPABILITIES: [u32; 2] = [80, 90];

/// Compiles a file's kernels for each compute capability, and checks that none is left out.
///
/// `file` is the text of the file, in which each kernel has a line that begins with `#[cube(launch`; `compile` hands each of them to the
/// compiler.
///
/// # Panics
///
/// If a kernel does not compile, with NVRTC's log and the source, or if not all of them have been compiled.
pub(crate) fn check(file: &str, compile: impl Fn(&mut Gpu)) {
    let marked = |line: &&str| line.trim_start().starts_with("#[cube(launch");
    let kernels = file.lines().filter(marked).count();
    for capability in CAPABILITIES {
        let mut gpu = Gpu::new(capability);
        compile(&mut gpu);
        assert_eq!(
            gpu.compiled.len(),
            kernels,
            "kernels compiled for sm_{capability}, and kernels in the file"
        );
    }
}

/// How a tensor in the memory of the device is handed to a kernel's constructor; a number is handed as `()`.
pub(crate) fn tensor() -> TensorCompilationArg {
    TensorCompilationArg {
        meta: TensorMetaCompilationArg { len: (), rank: () },
        buffer: BufferCompilationArg { inplace: None },
    }
}

/// A GPU that is compiled for.
pub(crate) struct Gpu {
    capability: u32,
    device: Arc<DeviceProperties>,
    target: Arc<TargetProperties>,
    compiled: BTreeSet<TypeId>,
}

impl Gpu {
    fn new(capability: u32) -> Self {
        Self {
            capability,
            device: Arc::new(properties(capability)),
            target: Arc::default(),
            compiled: BTreeSet::new(),
        }
    }

    /// Compiles a kernel for cubes of so many threads, to PTX. The constructor `new` of a kernel takes the three arguments of `kernel`, then an
    /// argument for each of its parameters that are known when it runs, then those that are known now.
    ///
    /// # Panics
    ///
    /// If it does not compile.
    pub(crate) fn compile<K: CubeKernel>(
        &mut self,
        cube: CubeDim,
        kernel: impl FnOnce(KernelSettings, Arc<DeviceProperties>, Arc<TargetProperties>) -> K,
    ) -> String {
        let settings = KernelSettings::new(cube.into(), ExecutionMode::Checked, AddressType::U32);
        let kernel = kernel(settings, self.device.clone(), self.target.clone());
        let name = kernel.name();
        let source = match self.source(&kernel) {
            Ok(source) => source,
            Err(error) => panic!("{name} does not become CUDA C++: {error}"),
        };
        let ptx = match self.nvrtc(&source) {
            Ok(ptx) => ptx,
            Err(CompileError::CompileError { log, .. }) => panic!(
                "NVRTC refuses {name} for sm_{}:\n{}\n{source}",
                self.capability,
                log.to_string_lossy()
            ),
            Err(error) => panic!("NVRTC fails on {name}: {error}"),
        };
        println!("sm_{} {name}: {} bytes of PTX", self.capability, ptx.len());
        self.compiled.insert(TypeId::of::<K>());
        ptx
    }

    /// The kernel as CUDA C++.
    fn source(&self, kernel: &impl CubeKernel) -> Result<String, String> {
        let options = CompilationOptions {
            supports_features: CppSupportedFeatures {
                fast_math: true,
                dp4a: true,
                grid_constants: true,
                fast_tanh: true,
                clusters: self.capability >= 90,
                elect_sync: self.capability >= 90,
            },
            ..CompilationOptions::default()
        };
        let definition = define_kernel(kernel).map_err(|error| error.to_string())?;
        CppCompiler::<Cuda>::default()
            .compile(definition, &options)
            .map(|kernel| kernel.to_string())
            .map_err(|error| error.to_string())
    }

    /// Compiles CUDA C++ to PTX.
    fn nvrtc(&self, source: &str) -> Result<String, CompileError> {
        let suffix = if self.capability >= 90 { "a" } else { "" };
        let toolkit = ["SWAV_CUDA_PATH", "CUDA_PATH"]
            .into_iter()
            .find_map(std::env::var_os)
            .unwrap_or_else(|| "/usr/local/cuda".into());
        let headers = PathBuf::from(toolkit).join("include");
        let include = |path: PathBuf| format!("--include-path={}", path.display());
        let options = CompileOptions {
            options: vec![
                format!("--gpu-architecture=sm_{}{suffix}", self.capability),
                include(headers.join("cccl")),
                include(headers),
                "-lineinfo".to_string(),
            ],
            ..CompileOptions::default()
        };
        Ok(compile_ptx_with_opts(source, options)?.to_src())
    }
}

/// What `cubecl-cuda` says of such a device, as far as kernels of ours may ask.
fn properties(capability: u32) -> DeviceProperties {
    let mut properties = DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(1 << 30, 512),
        HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: 160 * 1024,
            max_cube_count: (i32::MAX as u32, 65_535, 65_535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(108),
            num_cpu_cores: None,
            last_level_cache_size: None,
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        },
        TimingMethod::Device,
        DeviceIdentity {
            name: format!("compute capability {capability}"),
            fingerprint: format!("ptx_sm{capability}"),
            physical: None,
        },
    );
    register_supported_types(&mut properties);
    let features = &mut properties.features;
    features.plane |= Plane::Ops | Plane::Sync | Plane::NonUniformControlFlow;
    features.memory_reinterpret = true;
    features.alignment = true;
    features.device_memory_scope = true;
    features.copy_async = true;
    features.cube_cluster = capability >= 90;
    properties
}
