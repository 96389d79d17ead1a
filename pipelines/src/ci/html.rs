//! The report as one page that needs nothing else.

use std::fmt::Write;

use millstream_operators::registry::Score;

use super::{Report, escaped};
use crate::learn::{Curve, ModelLearned};

const STYLE: &str = "\
    body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #ddd}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.9em}pre{background:#f5f5f5;padding:.6rem;overflow:auto}\
    .ok{color:#176b2c}.bad{color:#b3261e;font-weight:600}svg{max-width:100%;height:auto}";
/// Sizes of a picture of learning, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 4] = ["#1a5fb4", "#888888", "#c64600", "#613583"];

pub(super) fn page(report: &Report) -> String {
    let title = escaped(&report.name);
    let verdict = if report.is_good() { "<b class=ok>passed</b>" } else { "<b class=bad>failed</b>" };
    let mut page = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\n\
         <h1>{title}: {verdict}</h1>\n<p><code>{}</code>, definition <code>{}</code>, {:.1} s</p>\n",
        escaped(&report.tests.file),
        escaped(&report.definition),
        report.seconds,
    );
    page.push_str(&tests(report));
    for model in report.models() {
        page.push_str(&one_model(report, model));
    }
    if let Some(learned) = &report.learned {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(page, "<h2>Records</h2><p>{} records, {} passes</p>", learned.records, learned.passes);
        if !learned.dead_letters.is_empty() {
            let rows = learned.dead_letters.iter().map(|(step, count)| vec![step.clone(), count.to_string()]);
            page.push_str(&table(&["could not be taken by", "records"], rows));
        }
    }
    let _ = writeln!(page, "<h2>Pipeline</h2>\n{}", report.picture);
    page
}

fn verdict(is_good: bool) -> &'static str {
    if is_good { "<span class=ok>ok</span>" } else { "<span class=bad>FAIL</span>" }
}

fn tests(report: &Report) -> String {
    let mut text = "<h2>Tests</h2>\n".to_owned();
    if report.tests.tests.is_empty() {
        return text + "<p>The definition has no tests.</p>\n";
    }
    text.push_str("<table>");
    for test in &report.tests.tests {
        let _ = write!(text, "<tr><td>{}<td>{}", verdict(test.is_good()), escaped(&test.name));
    }
    text.push_str("</table>\n");
    for test in report.tests.tests.iter().filter(|test| !test.is_good()) {
        let _ = writeln!(text, "<pre>{}</pre>", escaped(&test.text()));
    }
    text
}

fn one_model(report: &Report, model: &ModelLearned) -> String {
    let mut text = format!("<h2>Model {}</h2>\n<p>{} examples", escaped(&model.model), model.examples);
    if let Some(digest) = &model.digest {
        let _ = write!(text, ", state <code>{}</code>", escaped(digest));
    }
    text.push_str("</p>\n");
    let gates: Vec<_> = report.gates().filter(|(of, _)| *of == model.model).collect();
    if !gates.is_empty() {
        text.push_str("<table>");
        for (_, gate) in gates {
            let (sql, because) = (escaped(&gate.gate), escaped(&gate.because));
            let _ = write!(text, "<tr><td>{}<td><code>{sql}</code><td>{because}", verdict(gate.holds));
        }
        text.push_str("</table>\n");
    }
    if let Some(curve) = &model.curve {
        text.push_str(&picture(curve));
    }
    let row =
        |score: &Score| vec![score.over.clone(), score.name.clone(), score.who.clone(), format!("{:.6}", score.value)];
    text + &table(&["over", "measure", "who", "value"], model.measures.iter().map(row))
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("<table><tr><th>{}", heads.join("<th>"));
    for row in rows {
        text.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let class = if at + 1 == row.len() { " class=n" } else { "" };
            let _ = write!(text, "<td{class}>{}", escaped(cell));
        }
    }
    text + "</table>\n"
}

/// How a measure went on while the model learned, beside its baselines.
fn picture(curve: &Curve) -> String {
    let points = || curve.lines.iter().flat_map(|line| &line.points);
    let most = points().map(|(examples, _)| *examples).fold(1.0, f64::max);
    let (low, high) = points()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| (low.min(*value), high.max(*value)));
    if !(high.is_finite() && low.is_finite()) {
        return String::new();
    }
    let span = if high > low { high - low } else { 1.0 };
    let x = |examples: f64| MARGIN + examples / most * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN / 2.0 - (value - low) / span * (HEIGHT - MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-size=\"12\" font-family=\"system-ui\">\n"
    );
    for value in [low, high] {
        let _ = writeln!(svg, "<text x=\"0\" y=\"{:.1}\">{value:.3}</text>", y(value) + 4.0);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {0:.1} H{1:.1}\" stroke=\"#ddd\"/>", y(value), WIDTH - MARGIN);
    }
    for (at, line) in curve.lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let points: Vec<String> =
            line.points.iter().map(|(examples, value)| format!("{:.1},{:.1}", x(*examples), y(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        );
        let place = MARGIN + 110.0 * at as f64;
        let _ = writeln!(svg, "<text x=\"{place}\" y=\"12\" fill=\"{colour}\">{}</text>", escaped(&line.who));
    }
    let _ =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{HEIGHT}\" text-anchor=\"end\">{most} examples</text>", WIDTH - MARGIN);
    format!("<p>{} of all rows so far</p>\n{svg}</svg>\n", escaped(&curve.measure))
}
