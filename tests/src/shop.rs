//! A shop: orders of which some are returned, and questions which will be.

use millstream_connectors::broker::Message;
use millstream_pipelines::audit::audit;
use millstream_pipelines::run::replay::{self, replay};
use millstream_pipelines::run::{Checkpointing, Options, assemble};
use serde_json::json;

use crate::{NOW_MS, Site, message};

/// A pipeline with these models; requests are answered by `answers` and what follows it.
pub fn definition(models: &str, answers: &str) -> String {
    format!(
        r"
millstream: 1
name: shop
epochs: {{max_records: 25}}
sources:
  orders:
    from: {{topic: {{name: orders}}}}
    format: json
    columns: {{at: timestamp, amount: float, weekday: int, returned: bool}}
    event_time: {{column: at, lateness_seconds: 0}}
models:{models}
requests:
  questions: {{topic: questions, enters: orders, {answers}, answers: {{topic: answers}}, others: {{topic: others}}}}
"
    )
}

/// The order of a number.
pub fn order(at: u32) -> Message {
    let noise = at.wrapping_mul(2_654_435_761) >> 16;
    let amount = f64::from(noise % 100);
    let returned = amount + f64::from(noise >> 7 & 31) > 60.0;
    let at_ms = NOW_MS + 1000 * i64::from(at);
    message(None, json!({"at": at_ms, "amount": amount, "weekday": at % 7, "returned": returned}).to_string())
}

/// Orders from a number to another, which is not one of them.
pub fn orders(from: u32, to: u32) -> Vec<Message> {
    (from..to).map(order).collect()
}

/// So many questions.
pub fn questions(count: u32) -> Vec<Message> {
    let question = |number: u32| {
        let at = NOW_MS + 10_000_000 + i64::from(number);
        message(None, json!({"at": at, "amount": f64::from(number * 9 % 100), "weekday": 3}).to_string())
    };
    (0..count).map(question).collect()
}

/// A replay from the log reaches every digest and every answer that was recorded, and nothing is missing or doubled.
pub fn prove(site: &Site) {
    for from_start in [false, true] {
        let wanted = replay::Wanted { from_start, ..replay::Wanted::default() };
        replay(&site.pipeline, &site.options(), &wanted).expect("it is rebuilt");
    }
    site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
}
