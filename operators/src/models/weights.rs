//! Weights of others, by name, that a model begins with.

use std::collections::BTreeMap;

use super::Tensor;

/// Arrays as [`super::Predictor::tensors`] names them, until a model has taken them.
#[derive(Debug)]
pub struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    /// Of these arrays, whose numbers must be finite.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, String> {
        if let Some(tensor) = tensors.iter().find(|tensor| tensor.values.iter().any(|value| !value.is_finite())) {
            return Err(format!("`{}` holds what is no number", tensor.name));
        }
        Ok(Self(tensors.into_iter().map(|tensor| (tensor.name.to_string(), tensor)).collect()))
    }

    /// An array, whatever its shape.
    pub(super) fn any(&mut self, name: &str) -> Result<Tensor, String> {
        let found = self.0.remove(name);
        found.ok_or_else(|| {
            let there: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("`{name}` is missing; there are: {}", there.join(", "))
        })
    }

    /// The numbers of an array of this shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>, String> {
        let tensor = self.any(name)?;
        if tensor.shape == shape {
            return Ok(tensor.values);
        }
        Err(format!("`{name}` is of {:?}, and this model's is of {shape:?}", tensor.shape))
    }

    /// The same of one number, which has to be in a range.
    pub(super) fn one(&mut self, name: &str, least: f64, most: f64) -> Result<f64, String> {
        let values = self.take(name, &[1])?;
        within(name, &values, least, most).map(|()| values[0])
    }

    /// All must have been taken.
    pub fn finish(&self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("this model has no `{name}`")),
        }
    }
}

/// Refuses numbers out of a range.
pub(super) fn within(name: &str, values: &[f64], least: f64, most: f64) -> Result<(), String> {
    match values.iter().find(|value| !(least..=most).contains(*value)) {
        None => Ok(()),
        Some(value) => Err(format!("`{name}` holds {value}, which is not between {least} and {most}")),
    }
}
