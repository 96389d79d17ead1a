//! `millstream models optimise`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use millstream_engine::Fault;
use millstream_engine::time::{Clock, SystemClock};
use millstream_operators::inference::{Bits, Narrowing};
use millstream_pipelines::learn::Wanted;
use millstream_pipelines::optimise::{self, Optimised};
use millstream_pipelines::registry;

use super::super::learn::from;
use super::super::{Place, failed, show};
use crate::Form;

/// Arguments of `models optimise`.
#[derive(clap::Args)]
pub(super) struct Optimise {
    #[command(flatten)]
    place: Place,
    /// The version.
    version: String,
    /// In how many bits weights are kept.
    #[arg(long, value_enum, required_unless_present = "prune")]
    bits: Option<Kept>,
    /// Weights that are smaller than this part of the largest beside them become zero.
    #[arg(long, value_name = "PART", value_parser = share)]
    prune: Option<f64>,
    /// A file that stands for a source, as in `learn`: both are judged on its rows. A source without one has what its feed reads.
    #[arg(long, value_name = "[SOURCE=]FILE", value_parser = from)]
    from: Vec<(Option<String>, PathBuf)>,
    /// Only tell what it would cost and gain.
    #[arg(long)]
    dry: bool,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// See [`Bits`].
#[derive(Clone, Copy, ValueEnum)]
enum Kept {
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Whole numbers from -127 to 127, times a scale.
    Int8,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("a part is a number between 0 and 1, such as 0.01".to_owned()),
    }
}

impl Optimise {
    pub(super) fn run(&self) -> ExitCode {
        let (pipeline, state) = match self.place.load() {
            Ok(loaded) => loaded,
            Err(code) => return code,
        };
        let bits = self.bits.map(|bits| match bits {
            Kept::F16 => Bits::F16,
            Kept::Bf16 => Bits::Bf16,
            Kept::Int8 => Bits::Int8,
        });
        let how = Narrowing { bits, prune: self.prune.unwrap_or_default() };
        let wanted = Wanted { files: self.from.clone(), state: Some(state.clone()), ..Wanted::default() };
        let made = || {
            let registry = registry::open(&pipeline, &state)?;
            let mut optimised = optimise::optimise(&pipeline, &registry, &self.version, how, &wanted)?;
            if !self.dry {
                optimise::promote(&mut optimised, &registry, SystemClock.now_ms())?;
            }
            Ok::<_, Fault>(optimised)
        };
        match made() {
            Ok(optimised) => {
                show(&optimised, self.format, Optimised::text);
                ExitCode::SUCCESS
            }
            Err(fault) => failed(&pipeline, &fault),
        }
    }
}
