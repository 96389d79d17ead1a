//! The report as `JUnit` XML, which build servers read.

use std::fmt::Write;

use super::{Report, escaped};

/// A suite of the definition's tests, and one of its models and their gates.
pub(super) fn suites(report: &Report) -> String {
    let file = &report.tests.file;
    let tests: Vec<Case> = report
        .tests
        .tests
        .iter()
        .map(|test| Case {
            name: test.name.clone(),
            failure: (!test.is_good()).then(|| match &test.outcome {
                Err(fault) => fault.to_string(),
                Ok(_) => test.text(),
            }),
        })
        .collect();
    let learned = report.models().map(|model| Case {
        name: format!("{} learns", model.model),
        failure: (model.examples == 0).then(|| "it has had no example".to_owned()),
    });
    let gates = report.gates().map(|(model, gate)| Case {
        name: format!("{model}: {}", gate.gate),
        failure: (!gate.holds).then(|| gate.because.clone()),
    });
    let models: Vec<Case> = learned.chain(gates).collect();
    let learning = report.seconds - report.tests.seconds;
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    text.push_str(&suite(&format!("{} tests", report.name), file, &tests, report.tests.seconds));
    text.push_str(&suite(&format!("{} models", report.name), file, &models, learning));
    text.push_str("</testsuites>\n");
    text
}

struct Case {
    name: String,
    failure: Option<String>,
}

fn suite(name: &str, file: &str, cases: &[Case], seconds: f64) -> String {
    let (name, file) = (escaped(name), escaped(file));
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let mut text = format!(
        "  <testsuite name=\"{name}\" file=\"{file}\" tests=\"{}\" failures=\"{failures}\" time=\"{seconds:.3}\">\n",
        cases.len()
    );
    for case in cases {
        // Writing to a string cannot fail.
        let _ = write!(text, "    <testcase classname=\"{name}\" name=\"{}\"", escaped(&case.name));
        let _ = match &case.failure {
            None => writeln!(text, "/>"),
            Some(why) => {
                let (first, why) = (escaped(why.lines().next().unwrap_or_default()), escaped(why));
                writeln!(text, "><failure message=\"{first}\">{why}</failure></testcase>")
            }
        };
    }
    text + "  </testsuite>\n"
}
