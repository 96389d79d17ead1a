//! Which of two values of a measure is the better one, and which measure decides.

use super::Score;

/// The measures that decide, the lower the better; the first that there is.
pub const DECISIVE: [&str; 2] = ["log_loss", "rmse"];

/// A measure over all rows, of the model and of its baselines.
fn of_all<'a>(measures: &'a [Score], name: &str) -> impl Iterator<Item = &'a Score> {
    measures.iter().filter(move |score| score.name == name && score.over == "all")
}

/// What the model reached by a measure over all rows.
pub(super) fn reached<'a>(measures: &'a [Score], name: &str) -> Option<&'a Score> {
    of_all(measures, name).find(|score| score.who == "model")
}

/// What the model reached by the decisive measure over all rows.
pub fn decisive(measures: &[Score]) -> Option<&Score> {
    DECISIVE.into_iter().find_map(|name| reached(measures, name))
}

/// The best baseline by a measure of which less is better, over all rows.
pub fn best_baseline<'a>(measures: &'a [Score], name: &str) -> Option<&'a Score> {
    let baselines = of_all(measures, name).filter(|score| score.who != "model");
    baselines.min_by(|a, b| a.value.total_cmp(&b.value))
}

/// What a measure is called in SQL: one of the model over all rows by its own name, one of a baseline with the baseline's before it, one
/// over other rows with these behind it: `log_loss`, `majority_log_loss`, `"accuracy carrier=AA"`.
pub(super) fn column(score: &Score) -> String {
    let Score { name, who, over, .. } = score;
    match (who.as_str(), over.as_str()) {
        ("model", "all") => name.clone(),
        ("model", over) => format!("{name} {over}"),
        (who, "all") => format!("{who}_{name}"),
        (who, over) => format!("{who}_{name} {over}"),
    }
}

/// Measures of which more is better; of all others, less is.
const MORE_IS_BETTER: [&str; 9] =
    ["accuracy", "auc", "f1", "mcc", "kappa", "kappa_temporal", "r2", "reward", "reward_ips"];

/// A measure's value as something of which less is better; NaN stays NaN.
pub fn less_is_better(name: &str, value: f64) -> f64 {
    if MORE_IS_BETTER.contains(&name) { -value } else { value }
}
