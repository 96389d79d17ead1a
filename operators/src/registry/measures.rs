//! Which of two values of a measure is the better one.

/// Measures of which more is better; of all others, less is.
const MORE_IS_BETTER: [&str; 9] =
    ["accuracy", "auc", "f1", "mcc", "kappa", "kappa_temporal", "r2", "reward", "reward_ips"];

/// A measure's value as something of which less is better; NaN stays NaN.
pub fn less_is_better(name: &str, value: f64) -> f64 {
    if MORE_IS_BETTER.contains(&name) { -value } else { value }
}
