//! Networks against differences, against `PyTorch`, and against what their settings say.

mod devices;
mod gradients;
mod parts;
mod pytorch;
mod settings;
