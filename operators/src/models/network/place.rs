//! Where a network learns.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::compute::{Compute, Failed};
use super::graph::{Graph, Node};

/// `auto`, `cpu`, or `cuda:0`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Place {
    /// The first GPU that this program can use, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text.as_str(), number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(format!("`{text}` is no device: write auto, cpu, or cuda:0")),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        match place {
            Place::Auto => "auto".to_owned(),
            Place::Cpu => "cpu".to_owned(),
            Place::Cuda(number) => format!("cuda:{number}"),
        }
    }
}

impl JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(auto|cpu|cuda:[0-9]+)$"})
    }
}

impl Place {
    /// What runs a network there, from these parameters and moments on; nothing where that is the processor.
    pub(super) fn open(
        self,
        graph: &Graph,
        output: Node,
        values: &[f32],
        moments: &[f32],
    ) -> Result<Option<Box<dyn Compute>>, Failed> {
        match self {
            Self::Cpu => Ok(None),
            Self::Auto => Ok(cuda(0, graph, output, values, moments).ok()),
            Self::Cuda(number) => cuda(number, graph, output, values, moments).map(Some),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(
    number: usize,
    graph: &Graph,
    output: Node,
    values: &[f32],
    moments: &[f32],
) -> Result<Box<dyn Compute>, Failed> {
    use super::device::Device;

    // Without a driver, too, it is the driver's error for there being no device that comes.
    let missing = |error| {
        let Failed(why) = Failed::from(error);
        Failed(format!("there is no GPU {number} with a driver and CUDA's libraries that this program can use: {why}"))
    };
    let device = candle_core::Device::new_cuda(number).map_err(missing)?;
    Ok(Box::new(Device::new(device, graph, output, values, moments)?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: &Graph, _: Node, _: &[f32], _: &[f32]) -> Result<Box<dyn Compute>, Failed> {
    Err(Failed("this program was built without CUDA (cargo build --features cuda)".to_owned()))
}
