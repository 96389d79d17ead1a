//! Cleansing steps. One file each.

use millstream_engine::catalogue::StepKind;

/// All cleansing steps.
pub static KINDS: &[&StepKind] = &[];
