//! Learners beside what the references reach: prequential accuracy with default settings, and examples per CPU second.
//!
//!     python3 benches/peers/river_data.py                        # phishing and bananas into the target folder
//!     cargo bench -p millstream-benches --bench learning         # or `-- accuracy`, `-- speed`, `-- operator`, `-- epochs`
//!     cargo bench -p millstream-benches --bench learning -- write     # the streams as CSV and for Vowpal Wabbit
//!     python3 benches/peers/learning_river.py                    # peers on the same streams; so learning_vw.py, learning_capymoa.py
//!
//! Accuracy is prequential: each row is predicted, then learned. The bench's reference numbers are those of river 0.26 (and of Moa) with their
//! default settings.

mod accuracy;
mod epochs;
mod operator;
mod speed;
mod streams;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let asks = |what: &str| asked.is_empty() || asked.iter().any(|argument| argument == what);
    if asked.iter().any(|argument| argument == "write") {
        streams::write();
    }
    if asks("accuracy") {
        accuracy::run();
    }
    if asks("speed") {
        speed::run();
    }
    if asks("operator") {
        operator::run();
    }
    if asks("epochs") {
        epochs::run();
    }
}
