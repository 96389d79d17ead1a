//! Networks against differences, against PyTorch, and against what their settings say.

mod gradients;
mod pytorch;
mod settings;
