//! A revision as files that other programs can read.

use half::{bf16, f16};
use millstream_engine::{Fault, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::Serialize;
use serde_json::json;

use super::narrow::{SCALES, widen};
use super::{STATE, Saved, Spec};
use crate::models::onnx::{Signature, export};
use crate::models::{Predictor, Tensor, Weights};
use crate::registry::{DESCRIPTION, EXPLANATION};

/// The file of the model's numbers.
pub const WEIGHTS: &str = "weights.safetensors";
/// The file with which any ONNX runtime gives the model's answers, where it is expressible.
pub const ONNX: &str = "model.onnx";

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
    let names = spec.names();
    let explanation = predictor.explain(&names);
    let (task, shape, is_yes_or_no) = (spec.design.task, spec.shape(), spec.outputs.is_yes_or_no());
    // Its own metadata say what the description says, each part as text.
    let facts = description.as_object().into_iter().flatten().map(|(name, fact)| (name.clone(), plain(fact))).collect();
    let own = predictor.file().map(|file| Ok(file.to_vec()));
    let onnx = own.unwrap_or_else(|| export(predictor, &Signature { task, shape, names: &names, is_yes_or_no }, facts));
    description["onnx"] = match &onnx {
        Ok(_) => ONNX.into(),
        Err(reason) => format!("not exported: {reason}").into(),
    };
    let mut files =
        vec![(DESCRIPTION.to_owned(), pretty(&description)?), (EXPLANATION.to_owned(), pretty(&explanation)?)];
    files.extend(onnx.ok().map(|file| (ONNX.to_owned(), file)));
    files.push((STATE.to_owned(), Saved::new(spec, examples, predictor.snapshot()).write()));
    files.push((WEIGHTS.to_owned(), weights(predictor)?));
    Ok(files)
}

/// A text as it is, anything else as JSON.
fn plain(fact: &serde_json::Value) -> String {
    fact.as_str().map_or_else(|| fact.to_string(), str::to_owned)
}

fn pretty(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Fault::ours("a model's description cannot be written").because(error))
}

fn weights(predictor: &dyn Predictor) -> Result<Vec<u8>> {
    write_tensors(&predictor.tensors().into_iter().map(Stored::doubles).collect::<Vec<_>>())
}

/// A tensor as it is stored.
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) kind: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub(super) bytes: Vec<u8>,
}

impl Stored {
    /// In double precision.
    pub(super) fn doubles(tensor: Tensor) -> Self {
        let Tensor { name, shape, values } = tensor;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into_owned(), kind: Dtype::F64, shape, bytes }
    }
}

/// A file of safetensors.
pub(super) fn write_tensors(tensors: &[Stored]) -> Result<Vec<u8>> {
    let refused = |error| Fault::ours("a model's weights cannot be written").because(error);
    let views = tensors.iter().map(|Stored { name, kind, shape, bytes }| {
        TensorView::new(*kind, shape.clone(), bytes).map(|view| (name, view)).map_err(refused)
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    serialize(views, None).map_err(refused)
}

/// Bytes of a header at most: it is JSON, which takes many times as much memory.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Weights from a file of safetensors, or why they cannot be read.
pub fn read_weights(file: &[u8]) -> std::result::Result<Weights, String> {
    read_tensors(file).and_then(Weights::new)
}

/// Tensors from a file of safetensors: of double, single or half precision, or of whole numbers of eight bits with their
/// [scales](super::narrow).
pub(super) fn read_tensors(file: &[u8]) -> std::result::Result<Vec<Tensor>, String> {
    let header = file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if header.is_none_or(|bytes| bytes > HEADER_BYTES_MAX) {
        return Err("it is neither a model's state nor safetensors; for an ONNX file the learner is `onnx`".to_owned());
    }
    let read = SafeTensors::deserialize(file)
        .map_err(|error| format!("it is neither a model's state nor safetensors: {error}"))?;
    let scales = |name: &str| read.tensor(&format!("{name}{SCALES}"));
    let tensors = read.iter().filter(|(name, _)| !name.ends_with(SCALES)).map(|(name, view)| {
        let (shape, bytes) = (view.shape().to_vec(), view.data());
        let values = match view.dtype() {
            Dtype::I8 => {
                let scales =
                    scales(name).map_err(|_| format!("`{name}` is of I8, and there is no `{name}{SCALES}`"))?;
                widen(name, &shape, bytes, &numbers(&format!("{name}{SCALES}"), &scales)?)?
            }
            _ => numbers(name, &view)?,
        };
        Ok(Tensor { name: name.to_owned().into(), shape, values })
    });
    tensors.collect()
}

fn numbers(name: &str, view: &TensorView<'_>) -> std::result::Result<Vec<f64>, String> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f64()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f64()).collect(),
        other => {
            return Err(format!(
                "`{name}` is of {other:?}, and F64, F32, F16, BF16 and I8 with its scales can be read"
            ));
        }
    })
}
