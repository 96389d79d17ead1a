//! Networks against differences, against `PyTorch`, and against what their settings say.

mod devices;
mod gradients;
mod pytorch;
mod settings;
