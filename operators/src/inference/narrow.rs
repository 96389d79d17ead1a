//! A model's numbers in fewer bits, or with those left out that matter least.
//!
//! Only what is learned by steps is narrowed: weights, biases, embeddings. How inputs are scaled, and which categories there are, stays
//! as it is, for a rounded number there moves every prediction. Whole numbers of eight bits are symmetric, with one scale for each column
//! of a matrix of weights (an output) and for each row of embeddings; see Nagel et al., "A White Paper on Neural Network Quantization", 2021.

use half::{bf16, f16};
use millstream_engine::{Fault, Result};
use safetensors::Dtype;
use serde::Serialize;

use super::artefacts::{Stored, read_tensors, write_tensors};
use crate::models::Tensor;

/// What follows the name of a tensor of whole numbers in that of its scales.
pub(super) const SCALES: &str = ".int8_scales";

/// The last parts of the names of tensors that are learned by steps.
const LEARNED: [&str; 8] = ["weights", "bias", "biases", "gain", "shift", "factors", "embeddings", "categories"];
/// One of that name that is not: which categories have embeddings.
const CATEGORIES: &str = "embeddings.categories";

/// In how many bits a number is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// IEEE 754's half precision: three decimal digits, up to 65,504.
    F16,
    /// The upper half of single precision: two decimal digits, and its whole range.
    Bf16,
    /// Whole numbers from -127 to 127, times a scale.
    Int8,
}

impl Bits {
    /// `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// How numbers become smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Narrowing {
    /// In how many bits they are kept; as they are without it.
    pub bits: Option<Bits>,
    /// Those that are smaller than this part of the largest of their tensor become zero.
    pub prune: f64,
}

/// What became of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Narrowed {
    /// How many are learned by steps.
    pub weights: u64,
    /// How many of these are zero now.
    pub zeros: u64,
}

/// Whether a tensor is learned by steps.
fn is_learned(name: &str) -> bool {
    let last = name.rsplit(['.', '/']).next().unwrap_or_default();
    LEARNED.contains(&last) && name != CATEGORIES
}

/// A version's file of weights with smaller numbers, and what became of them.
pub fn narrow(file: &[u8], how: Narrowing) -> Result<(Vec<u8>, Narrowed)> {
    let mut stored = Vec::new();
    for mut tensor in read_tensors(file).map_err(Fault::definition)? {
        if !is_learned(&tensor.name) {
            stored.push(Stored::doubles(tensor));
            continue;
        }
        let least = how.prune * tensor.values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        tensor.values.iter_mut().filter(|value| value.abs() < least).for_each(|value| *value = 0.0);
        match how.bits {
            None => stored.push(Stored::doubles(tensor)),
            Some(bits) => stored.extend(store(tensor, bits).map_err(Fault::definition)?),
        }
    }
    let file = write_tensors(&stored)?;
    let mut narrowed = Narrowed::default();
    // What was too small for its bits has become zero, too.
    for tensor in read_tensors(&file).map_err(Fault::ours)?.iter().filter(|tensor| is_learned(&tensor.name)) {
        narrowed.weights += tensor.values.len() as u64;
        narrowed.zeros += tensor.values.iter().filter(|value| **value == 0.0).count() as u64;
    }
    Ok((file, narrowed))
}

/// A tensor in so many bits, with its scales if it has some.
fn store(tensor: Tensor, bits: Bits) -> std::result::Result<Vec<Stored>, String> {
    let Tensor { name, shape, values } = tensor;
    let name = name.into_owned();
    Ok(match bits {
        Bits::F16 => {
            if let Some(value) = values.iter().find(|value| !f16::from_f64(**value).is_finite()) {
                return Err(format!("`{name}` holds {value}, which is too large for f16: take bf16"));
            }
            let bytes = values.iter().flat_map(|value| f16::from_f64(*value).to_le_bytes()).collect();
            vec![Stored { name, kind: Dtype::F16, shape, bytes }]
        }
        Bits::Bf16 => {
            let bytes = values.iter().flat_map(|value| bf16::from_f64(*value).to_le_bytes()).collect();
            vec![Stored { name, kind: Dtype::BF16, shape, bytes }]
        }
        Bits::Int8 => {
            let groups = groups(&name, &shape);
            let mut scales = vec![0.0_f32; groups.count];
            for (at, value) in values.iter().enumerate() {
                let scale = &mut scales[groups.of(at)];
                *scale = scale.max((value.abs() / 127.0) as f32);
            }
            let whole = |(at, value): (usize, &f64)| {
                let scale = f64::from(scales[groups.of(at)]);
                let whole = if scale > 0.0 { (value / scale).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
                (whole as i8).to_le_bytes()[0]
            };
            let bytes = values.iter().enumerate().map(whole).collect();
            let of_scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let scales = Stored {
                name: format!("{name}{SCALES}"),
                kind: Dtype::F32,
                shape: vec![groups.count],
                bytes: of_scales,
            };
            vec![Stored { name, kind: Dtype::I8, shape, bytes }, scales]
        }
    })
}

/// Which numbers of a tensor share a scale.
struct Groups {
    count: usize,
    /// So many that follow one another.
    run: usize,
}

impl Groups {
    fn of(&self, at: usize) -> usize {
        at / self.run % self.count
    }
}

fn groups(name: &str, shape: &[usize]) -> Groups {
    match shape {
        [rows, width] if name == "embeddings" => Groups { count: (*rows).max(1), run: (*width).max(1) },
        [_, width] => Groups { count: (*width).max(1), run: 1 },
        _ => Groups { count: 1, run: usize::MAX },
    }
}

/// The numbers that whole ones of eight bits stand for.
pub(super) fn widen(
    name: &str,
    shape: &[usize],
    whole: &[u8],
    scales: &[f64],
) -> std::result::Result<Vec<f64>, String> {
    let groups = groups(name, shape);
    if scales.len() != groups.count {
        return Err(format!("`{name}` has {} scales, and needs {}", scales.len(), groups.count));
    }
    Ok(whole
        .iter()
        .enumerate()
        .map(|(at, byte)| f64::from(i8::from_le_bytes([*byte])) * scales[groups.of(at)])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Vec<usize>, Vec<f64>)]) -> Vec<u8> {
        let tensor = |(name, shape, values): &(&str, Vec<usize>, Vec<f64>)| {
            Stored::doubles(Tensor { name: (*name).to_owned().into(), shape: shape.clone(), values: values.clone() })
        };
        write_tensors(&tensors.iter().map(tensor).collect::<Vec<_>>()).expect("it can be written")
    }

    fn values(file: &[u8], name: &str) -> Vec<f64> {
        let tensors = read_tensors(file).expect("it can be read");
        tensors.into_iter().find(|tensor| tensor.name == name).expect("it is there").values
    }

    #[test]
    fn numbers_are_kept_as_near_as_their_bits_allow() {
        let weights: Vec<f64> =
            (0..60).map(|at| (f64::from(at) * 0.37).sin() * if at % 3 == 0 { 100.0 } else { 0.5 }).collect();
        let whole = file(&[("layer.weights", vec![20, 3], weights.clone()), ("means", vec![2], vec![1e9 + 0.1, 3.0])]);
        for (bits, off) in [(Bits::F16, 1.0 / 2048.0), (Bits::Bf16, 1.0 / 256.0), (Bits::Int8, 0.0)] {
            let (small, narrowed) = narrow(&whole, Narrowing { bits: Some(bits), prune: 0.0 }).expect("it can be");
            assert_eq!(narrowed.weights, 60);
            assert_eq!(values(&small, "means"), [1e9 + 0.1, 3.0], "how inputs are scaled stays");
            for (column, (value, near)) in weights.iter().zip(values(&small, "layer.weights")).enumerate() {
                // Each column of whole numbers has a scale of its own.
                let most = if column % 3 == 0 { 100.0 } else { 0.5 };
                let off = if bits == Bits::Int8 { most / 127.0 * 0.51 } else { off * value.abs() };
                assert!((value - near).abs() <= off, "{bits:?}: {value} {near}");
            }
            assert!(small.len() < whole.len());
        }
        let (same, _) = narrow(&whole, Narrowing::default()).expect("it can be");
        assert_eq!(values(&same, "layer.weights"), weights);
    }

    #[test]
    fn the_smallest_are_pruned() {
        let whole = file(&[("weights", vec![4], vec![1.0, -0.05, 0.2, -0.5]), ("scales", vec![1], vec![0.001])]);
        let (small, narrowed) = narrow(&whole, Narrowing { bits: None, prune: 0.1 }).expect("it can be");
        assert_eq!(values(&small, "weights"), [1.0, 0.0, 0.2, -0.5]);
        assert_eq!(values(&small, "scales"), [0.001]);
        assert_eq!(narrowed, Narrowed { weights: 4, zeros: 1 });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let large = file(&[("weights", vec![1], vec![1e6])]);
        assert!(narrow(&large, Narrowing { bits: Some(Bits::F16), prune: 0.0 }).is_err());
        let whole = |name: &str, kind, shape, bytes| Stored { name: name.to_owned(), kind, shape, bytes };
        let odd = write_tensors(&[
            whole("weights", Dtype::I8, vec![2, 2], vec![1, 2, 3, 4]),
            whole(&format!("weights{SCALES}"), Dtype::F32, vec![1], 1.0_f32.to_le_bytes().to_vec()),
        ]);
        assert!(read_tensors(&odd.expect("it can be written")).expect_err("two are needed").contains("scales"));
        let alone = write_tensors(&[whole("weights", Dtype::I8, vec![1], vec![1])]).expect("it can be written");
        assert!(read_tensors(&alone).is_err());
    }
}
