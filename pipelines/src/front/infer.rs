//! One request, however it came: its rows go into the topic, and their answers come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use millstream_connectors::broker::Message;
use millstream_connectors::formats::Cell;
use millstream_connectors::http::Refusal;
use millstream_connectors::sources::intake::{Outcome as Kept, RECORD_BYTES, Room};
use millstream_engine::publish::{Given, Outcome, Stamp, VERSION, no_version};
use millstream_engine::raw::Headers;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::hub::Place;
use super::tensors::Rows;
use super::{Endpoint, NEWEST_ONLY};
use crate::run::Answers;
use crate::run::reply::{self, FEATURES};

/// Rows in one request at most.
pub(super) const ROWS_MAX: usize = 10_000;

/// A request.
pub(super) struct Asked<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) parameters: Parameters,
    /// Which of the models shall answer, where that is said.
    pub(super) version: Option<&'a str>,
}

impl Asked<'_> {
    /// It as headers of its records.
    fn headers(&self) -> Headers {
        let version = self.version.map(|version| (VERSION.to_owned(), version.as_bytes().to_vec()));
        let features = self.parameters.features.then(|| (FEATURES.to_owned(), b"true".to_vec()));
        version.into_iter().chain(features).collect()
    }
}

/// What may be said of a request. Others are passed over, as the protocol wants.
#[derive(Default, Deserialize)]
pub(super) struct Parameters {
    /// Microseconds after which nobody waits for the answer.
    pub(super) timeout: Option<u64>,
    /// What the model must have learned at least.
    pub(super) at_least: Option<AtLeast>,
    /// Whether the answer tells the features that it was given by.
    #[serde(default)]
    pub(super) features: bool,
}

/// A revision, or offsets by source and partition; these also as their JSON in a text, where parameters cannot be objects.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "Told")]
pub(super) enum AtLeast {
    Revision(u64),
    Offsets(BTreeMap<String, u64>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Revision(u64),
    Offsets(BTreeMap<String, u64>),
    Text(String),
}

impl TryFrom<Told> for AtLeast {
    type Error = String;

    fn try_from(told: Told) -> Result<Self, String> {
        match told {
            Told::Revision(revision) => Ok(Self::Revision(revision)),
            Told::Offsets(offsets) => Ok(Self::Offsets(offsets)),
            Told::Text(text) => Self::parse(&text),
        }
    }
}

impl AtLeast {
    /// What is said in JSON.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(Told::Revision(revision)) => Ok(Self::Revision(revision)),
            Ok(Told::Offsets(offsets)) => Ok(Self::Offsets(offsets)),
            _ => Err("`at_least` is a revision, or offsets: {\"orders/0\": 1200}".to_owned()),
        }
    }

    fn is_reached(&self, endpoint: &Endpoint, version: Option<&str>) -> bool {
        let newest = |(_, fold, _): &(String, usize, _)| endpoint.book.newest_revision(*fold);
        endpoint.models(version).next().and_then(newest).is_some_and(|revision| match self {
            Self::Revision(wanted) => revision.number >= *wanted,
            Self::Offsets(wanted) => {
                let learned = &revision.frontier.offsets;
                wanted.iter().all(|(place, offset)| learned.get(place).is_some_and(|learned| learned >= offset))
            }
        })
    }
}

pub(super) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn too_many() -> Refusal {
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "more is asked than can be answered in time");
    refusal.with((RETRY_AFTER.as_str(), "1"))
}

fn full() -> Refusal {
    Refusal::later("too much waits to be kept")
}

impl Endpoint {
    /// Before anything is read: whoever is refused must not take the time of those who are answered.
    pub(super) fn is_open(&self) -> Result<(), Refusal> {
        if self.admission.is_full() { Err(too_many()) } else { Ok(()) }
    }

    /// The model that a version means, where one may be asked for.
    pub(super) fn version<'v>(&self, version: &'v str) -> Result<&'v str, Refusal> {
        let not_found = |message: String| Err(Refusal::new(StatusCode::NOT_FOUND, message));
        if !self.by_name {
            return not_found(NEWEST_ONLY.to_owned());
        }
        let names = self.models.iter().map(|(name, ..)| name.as_str());
        if names.clone().any(|name| name == version) { Ok(version) } else { not_found(no_version(version, names)) }
    }

    /// Room for a request of so many bytes.
    pub(super) fn room(&self, bytes: usize) -> Result<Room, Refusal> {
        self.intake.try_room(bytes + RECORD_BYTES).ok_or_else(full)
    }

    /// Answers a request that has `room` for so many bytes; gives the seconds that took, too.
    pub(super) async fn infer(
        &self,
        asked: &Asked<'_>,
        (room, bytes): (Room, usize),
        patience: Duration,
    ) -> Result<(Vec<Outcome>, f64), Refusal> {
        let Asked { rows, parameters, version } = asked;
        if rows.count > ROWS_MAX {
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has {ROWS_MAX} rows at most")));
        }
        let admitted = self.admission.admit(rows.count).ok_or_else(too_many)?;
        if parameters.at_least.is_none() && !self.is_ready(*version) {
            return Err(Refusal::later("the model has learned nothing yet"));
        }
        let patience = parameters.timeout.map_or(patience, |us| Duration::from_micros(us).min(patience));
        let answers = async {
            if let Some(at_least) = &parameters.at_least {
                self.reach(at_least, *version).await;
            }
            let mut place = self.hub.wait(rows.count);
            let (messages, room) = self.messages(asked, &place, (room, bytes))?;
            let (hub, number) = (self.hub.clone(), place.number);
            self.intake.hand_over(messages, room, move |kept| {
                if kept != Kept::Durable {
                    hub.give_up(number, kept);
                }
            });
            match (&mut place.outcomes).await {
                Ok(Ok(outcomes)) => Ok(outcomes),
                Ok(Err(Kept::Refused)) => Err(bad("the broker does not take this request; it may be too large for it")),
                Ok(Err(_)) => Err(Refusal::later("the request is not known to be kept; ask again")),
                Err(_) => Err(Refusal::later("the pipeline ends; ask again")),
            }
        };
        let late = |_| {
            let message = "the answer took longer than the client waits, or what it must have learned is not reached";
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, message)
        };
        let outcomes = timeout(patience, answers).await.map_err(late)??;
        let seconds = admitted.seconds();
        admitted.answered();
        Ok((outcomes, seconds))
    }

    /// Waits until the model has learned so much.
    async fn reach(&self, at_least: &AtLeast, version: Option<&str>) {
        let mut durable = self.hub.durable();
        while !at_least.is_reached(self, version) {
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    /// The rows as messages of the requests' topic, in their order, and room for all of them: as records they may be larger
    /// than they were asked.
    fn messages(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        (mut room, mut bytes): (Room, usize),
    ) -> Result<(Vec<Message>, Room), Refusal> {
        let Asked { rows, .. } = asked;
        let headers = asked.headers();
        let now_ms = self.clock.now_ms();
        let mut encoder = (self.encoder)();
        let mut messages = Vec::with_capacity(rows.count);
        let mut cells = Vec::with_capacity(self.columns.schema.fields().len());
        for row in 0..rows.count {
            cells.clear();
            cells.extend(rows.row(row));
            if let Some(time) = self.event_time
                && cells[time] == Cell::Missing
            {
                // A request that has no time is of now.
                cells[time] = Cell::Timestamp(now_ms);
            }
            let mut value = Vec::with_capacity(self.record_bytes(&messages));
            encoder.row(&cells, &mut value).map_err(|fault| bad(fault.to_string()))?;
            let message = Message {
                key: Some(place.key(row)),
                value: Some(value),
                headers: headers.clone(),
                timestamp_ms: now_ms,
                ..Message::default()
            };
            let taken = message.bytes() + if row > 0 { RECORD_BYTES } else { 0 };
            if taken > bytes {
                room = room.and(self.intake.try_room(taken - bytes).ok_or_else(full)?);
            }
            bytes = bytes.saturating_sub(taken);
            messages.push(message);
        }
        Ok((messages, room))
    }

    /// About how large a record will be: as the one before.
    fn record_bytes(&self, before: &[Message]) -> usize {
        let last = before.last().and_then(|message| message.value.as_ref());
        last.map_or(24 * self.columns.schema.fields().len(), Vec::len)
    }
}

/// What there is to be said of all rows of a request that was answered.
pub(super) struct Answered<'o> {
    /// Each row's answer: a row of a batch of answers.
    pub(super) rows: Vec<(&'o Given, usize)>,
    /// Rows of one request may have been answered by two revisions: the older one is what all of them had at least.
    pub(super) oldest: &'o Stamp,
    pub(super) staleness_ms: Option<i64>,
}

/// Why a request as a whole was not answered: what was wrong with some of its rows.
#[derive(Serialize)]
pub(super) struct Errors<'o> {
    pub(super) error: String,
    errors: Vec<RowError<'o>>,
}

#[derive(Serialize)]
struct RowError<'o> {
    row: usize,
    step: &'o str,
    reason: &'o str,
}

impl<'o> Answered<'o> {
    /// What was answered, if all rows were.
    pub(super) fn of(outcomes: &'o [Outcome]) -> Result<Self, Errors<'o>> {
        let (mut errors, mut staleness_ms, mut oldest) = (Vec::new(), None::<i64>, None::<&'o Arc<Stamp>>);
        let mut rows = Vec::with_capacity(outcomes.len());
        for (at, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Answered { given, row, staleness_ms: stale, .. } => {
                    staleness_ms = staleness_ms.max(*stale);
                    let revision = &given.revision;
                    oldest = Some(oldest.filter(|oldest| oldest.revision <= revision.revision).unwrap_or(revision));
                    rows.push((&**given, *row));
                }
                Outcome::Refused { step, reason } => errors.push(RowError { row: at, step, reason }),
            }
        }
        if let Some(oldest) = oldest.filter(|_| errors.is_empty()) {
            return Ok(Self { rows, oldest, staleness_ms });
        }
        let why = errors.first().map_or("nobody has answered", |error| error.reason);
        let error = format!("{} of {} rows cannot be answered: {why}", errors.len(), outcomes.len());
        Err(Errors { error, errors })
    }

    /// The columns of the answer that are wanted, all where none is named.
    pub(super) fn outputs(&self, wanted: &[impl AsRef<str>]) -> Result<Vec<Output<'_>>, Refusal> {
        let schema = self.rows[0].0.columns.schema_ref();
        if let Some(unknown) = wanted.iter().find(|name| schema.index_of(name.as_ref()).is_err()) {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(bad(format!("there is no output `{}`; there are {}", unknown.as_ref(), names.join(", "))));
        }
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_ref() == name);
        let fields = schema.fields().iter().enumerate().filter(|(_, field)| is_wanted(field.name()));
        Ok(fields.map(|(at, _)| Output { rows: &self.rows, at }).collect())
    }

    /// The features of all rows, as a list in JSON, if they are wanted and may be told.
    pub(super) fn features(&self, parameters: &Parameters, answers: &Answers) -> Option<String> {
        if !parameters.features {
            return None;
        }
        let all = self.rows.iter().map(|(given, row)| reply::features(given, *row, answers));
        serde_json::to_string(&all.collect::<Option<Vec<_>>>()?).ok()
    }

    /// What the older revision had learned through, in JSON: the protocol's parameters are no objects.
    pub(super) fn learned_through(&self) -> String {
        serde_json::to_string(&self.oldest.learned_through.offsets).unwrap_or_default()
    }

    pub(super) fn learned_through_time(&self) -> Option<String> {
        self.oldest.learned_through.time_ms.map(reply::time)
    }

    pub(super) fn staleness_seconds(&self) -> Option<f64> {
        self.staleness_ms.map(|ms| ms as f64 / 1000.0)
    }
}

/// A column of an answer.
pub(super) struct Output<'o> {
    rows: &'o [(&'o Given, usize)],
    at: usize,
}

impl<'o> Output<'o> {
    pub(super) fn name(&self) -> &'o str {
        self.rows[0].0.columns.schema_ref().field(self.at).name()
    }

    pub(super) fn datatype(&self) -> &'static str {
        super::tensors::datatype_of(self.rows[0].0.columns.schema_ref().field(self.at).data_type())
    }

    /// Its values: each a row of a column.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'o dyn Array, usize)> + use<'o> {
        let at = self.at;
        self.rows.iter().map(move |(given, row)| (given.columns.column(at).as_ref(), *row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_learned_is_a_revision_or_offsets() {
        let offsets = AtLeast::Offsets([("a/0".to_owned(), 3)].into());
        for (text, wanted) in [
            ("{}", None),
            (r#"{"at_least": 7, "priority": 1}"#, Some(AtLeast::Revision(7))),
            (r#"{"at_least": {"a/0": 3}}"#, Some(offsets)),
            (r#"{"at_least": "{\"a/0\": 3}"}"#, Some(AtLeast::Offsets([("a/0".to_owned(), 3)].into()))),
            (r#"{"at_least": "7"}"#, Some(AtLeast::Revision(7))),
        ] {
            let read: Parameters = serde_json::from_str(text).expect(text);
            assert_eq!(read.at_least, wanted, "{text}");
        }
        for text in [r#"{"at_least": "soon"}"#, r#"{"at_least": "\"7\""}"#, r#"{"at_least": -1}"#] {
            assert!(serde_json::from_str::<Parameters>(text).is_err(), "{text}");
        }
    }
}
