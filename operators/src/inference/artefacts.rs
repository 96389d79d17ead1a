//! A revision as files that other programs can read.

use millstream_engine::{Fault, Result};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::Serialize;
use serde_json::json;

use super::Spec;
use crate::models::Predictor;
use crate::registry::{DESCRIPTION, EXPLANATION};

/// The file of the model's numbers.
pub const WEIGHTS: &str = "weights.safetensors";
impl Spec {
    /// What the model is, for people and for telling one from another.
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "model": self.design.kind,
            "task": self.design.task,
            "label": self.label,
            "classes": self.outputs.names(),
            "features": self.features.columns(),
            "parameters": self.design.parameters,
        })
    }
}

/// The files; the same model gives the same bytes.
pub(super) fn write(spec: &Spec, predictor: &dyn Predictor, examples: u64) -> Result<Vec<(String, Vec<u8>)>> {
    let mut description = spec.describe();
    description["examples"] = examples.into();
    let explanation = predictor.explain(&spec.names());
    Ok(vec![
        (DESCRIPTION.to_owned(), pretty(&description)?),
        (EXPLANATION.to_owned(), pretty(&explanation)?),
        (WEIGHTS.to_owned(), weights(predictor)?),
    ])
}

fn pretty(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Fault::ours("a model's description cannot be written").because(error))
}

fn weights(predictor: &dyn Predictor) -> Result<Vec<u8>> {
    let refused = |error| Fault::ours("a model's weights cannot be written").because(error);
    let tensors: Vec<_> = predictor
        .tensors()
        .into_iter()
        .map(|tensor| {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor.name, tensor.shape, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F64, shape.clone(), bytes).map_err(refused)?)))
        .collect::<Result<Vec<_>>>()?;
    serialize(views, None).map_err(refused)
}
