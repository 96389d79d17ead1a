//! A revision as files that other programs can read.

use millstream_engine::{Fault, Result};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

use super::Spec;
use crate::models::{Predictor, Task};

/// The file of the model's numbers.
pub const WEIGHTS: &str = "weights.safetensors";
/// The file that says what the numbers mean.
pub const METADATA: &str = "model.json";

impl Spec {
    /// What the model is, for people and for telling one from another.
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "model": self.design.kind,
            "task": self.design.task,
            "label": self.label,
            "features": self.features.columns(),
            "parameters": self.design.parameters,
        })
    }
}

/// The files; the same model gives the same bytes.
pub(super) fn write(spec: &Spec, predictor: &dyn Predictor, examples: u64) -> Result<Vec<(String, Vec<u8>)>> {
    let mut description = spec.describe();
    description["examples"] = examples.into();
    description["prediction"] = formula(spec.design.task).into();
    let metadata = serde_json::to_vec_pretty(&description)
        .map_err(|error| Fault::ours("a model's description cannot be written").because(error))?;
    Ok(vec![(METADATA.to_owned(), metadata), (WEIGHTS.to_owned(), weights(predictor)?)])
}

fn formula(task: Task) -> &'static str {
    match task {
        Task::Classification => {
            "1 / (1 + exp(-(bias + sum(weights * clamp((x - means) / scales, -1, 1)) + sum(categories[offset + code]))))"
        }
        Task::Regression => {
            "label_mean + label_deviation * (bias + sum(weights * clamp((x - means) / scales, -1, 1)) \
             + sum(categories[offset + code]))"
        }
    }
}

fn weights(predictor: &dyn Predictor) -> Result<Vec<u8>> {
    let refused = |error| Fault::ours("a model's weights cannot be written").because(error);
    let tensors: Vec<(&str, usize, Vec<u8>)> = predictor
        .tensors()
        .into_iter()
        .map(|tensor| {
            let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor.name, tensor.values.len(), bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, len, bytes)| Ok((*name, TensorView::new(Dtype::F64, vec![*len], bytes).map_err(refused)?)))
        .collect::<Result<Vec<_>>>()?;
    serialize(views, None).map_err(refused)
}
