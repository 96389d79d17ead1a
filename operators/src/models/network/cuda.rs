//! What takes more of a GPU than candle's tensors give: a step of an optimiser as one launch, and launches that are recorded once and
//! then repeated as one. All that is `unsafe` in this program is here.
#![expect(unsafe_code, reason = "CUDA runs kernels and shares memory with them: no compiler checks either")]

use std::sync::OnceLock;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{CudaStorage, Device as Place, Error, Layout, Result};

use super::optimizer::{Rule, Step};

/// So many parameters belong to a block of threads.
const THREADS: u32 = 256;

/// Writes over the numbers of a tensor, which lie one after the other from its start on.
pub(super) fn overwrite(storage: &mut CudaStorage, layout: &Layout, numbers: &[f32]) -> Result<()> {
    let device = storage.device.clone();
    let (start, end) = contiguous(layout)?;
    device.memcpy_htod(numbers, &mut storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end))
}

/// Moves the parameters at the beginning of `state`, and the moments that lie behind them, along their gradients times a factor.
pub(super) fn step(
    (state, state_layout): (&mut CudaStorage, &Layout),
    (gradients, gradients_layout): (&CudaStorage, &Layout),
    len: usize,
    rule: &Rule,
    step: Step,
    factor: f32,
) -> Result<()> {
    let (name, numbers) = kernel(rule, step);
    let kernel = state.device.get_or_load_custom_func(name, "steps", compiled()?)?;
    let [(state_start, state_end), (start, end)] = [contiguous(state_layout)?, contiguous(gradients_layout)?];
    let mut state = state.as_cuda_slice_mut::<f32>()?.slice_mut(state_start..state_end);
    let gradients = gradients.as_cuda_slice::<f32>()?.slice(start..end);
    if state.len() < (1 + rule.moments()) * len || gradients.len() < len {
        candle_core::bail!("there are too few numbers for a step of {len} parameters");
    }
    let count = len as u64;
    let mut launch = kernel.builder();
    launch.arg(&mut state).arg(&gradients).arg(&count).arg(&factor);
    for number in &numbers {
        launch.arg(number);
    }
    let blocks = (len as u32).div_ceil(THREADS);
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel, in their order; `kernel` gives as many numbers as it takes. It changes the first
    // `(1 + moments) * len` numbers of `state`, which is borrowed for that, and reads `len` gradients: there are as many of both.
    unsafe { launch.launch(config) }.w()?;
    Ok(())
}

/// The name of a rule's kernel, and the numbers that it takes.
fn kernel(rule: &Rule, step: Step) -> (&'static str, Vec<f32>) {
    let Step { rate, decay, .. } = step;
    match *rule {
        Rule::Sgd { momentum: 0.0, .. } => ("sgd", vec![rate, decay]),
        Rule::Sgd { momentum, .. } => ("momentum", vec![rate, decay, momentum as f32]),
        Rule::Adagrad { epsilon, .. } => ("adagrad", vec![rate, decay, epsilon as f32]),
        Rule::Adamw { beta1, beta2, epsilon, .. } => {
            let (length, scale) = step.corrections(beta1, beta2);
            let betas = [beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon].map(|number| number as f32);
            ("adamw", [&[1.0 - rate * decay, length, scale], &betas[..]].concat())
        }
    }
}

/// The kernels as the driver takes them.
fn compiled() -> Result<&'static str> {
    static COMPILED: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        let options = CompileOptions { fmad: Some(false), ..CompileOptions::default() };
        let compiled = compile_ptx_with_opts(include_str!("steps.cu"), options);
        compiled.map(|compiled| compiled.to_src()).map_err(|error| error.to_string())
    });
    compiled.as_deref().map_err(|error| Error::Cuda(format!("libnvrtc cannot compile the steps: {error}").into()))
}

/// Where a tensor's numbers lie, which have to be one after the other.
fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| Error::Cuda("numbers do not lie side by side".into()))
}

/// Launches that were recorded, with the memory that they use.
pub(super) struct Launches(CudaGraph);

// SAFETY: a graph belongs to no thread; it must not be used by two at once, and only `&mut` gives it away here.
unsafe impl Send for Launches {}

impl Launches {
    /// Records what `make` launches, which is not done yet: what it gives are tensors that [`Launches::repeat`] fills. Nothing where that
    /// is no GPU. `make` must not copy anything there or back.
    pub(super) fn record<T>(place: &Place, make: impl FnOnce() -> Result<T>) -> Result<Option<(Self, T)>> {
        let Ok(device) = place.as_cuda_device() else { return Ok(None) };
        let stream = device.cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let made = make();
        // What is left of the memory of one time is free again with the next.
        let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).w();
        let (made, graph) = (made?, graph?);
        Ok(graph.map(|graph| (Self(graph), made)))
    }

    /// Does it once more.
    pub(super) fn repeat<T>(&mut self, _: &mut T, _: impl FnOnce() -> Result<T>) -> Result<()> {
        self.0.launch().w()
    }
}

/// Lets the sizes that candle sends along with many launches stay on a GPU, as long as what this gives is kept. There are few of them
/// where as many rows come each time; numbers must not go there meanwhile, or they stay, too.
pub(super) fn keep_sizes(place: &Place) -> impl Sized + use<> {
    place.as_cuda_device().ok().map(candle_core::CudaDevice::enable_cuda_graph_htod_cache)
}
