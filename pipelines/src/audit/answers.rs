//! Answers, matched with the requests that were bound.
//!
//! The answers to one partition of requests are in one partition of answers, in the order of the requests. So each
//! partition of requests has a *lane* that goes through its answers once, beside its ranges.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream_connectors::broker::Broker;
use millstream_engine::{Fault, Result};
use serde::Deserialize;

use super::Place;
use super::log::Log;
use super::report::Report;
use crate::plan::{Delivery, Pipeline};
use crate::run::journal::Part;

/// How many answers of later epochs are looked through before an answer counts as missing.
const LOOK_AHEAD: usize = 64;
/// Of how many answers it is remembered what they were, to compare one that comes again.
const REMEMBERED: usize = 1 << 16;

/// All answers of a pipeline.
pub(super) struct Answers {
    delivery: Delivery,
    /// By the requests' name: the topic that asks.
    asked: BTreeMap<String, String>,
    lanes: BTreeMap<Place, Lane>,
    /// Partitions of answers' topics that no request's partition answers into.
    rest: Vec<Lane>,
    /// Where the answers of the last epoch were.
    span: Vec<String>,
}

/// The answers to one partition of requests.
struct Lane {
    /// Where they are.
    topic: String,
    partition: u32,
    log: Log,
    /// The requests' topic and partition; `None` where none are expected.
    asks: Option<(String, u32)>,
    /// Of all lanes of this partition of answers one tells what is in none of them.
    tells: bool,
    /// The topics that ask, and the partitions that answer here.
    known: BTreeSet<(String, u32)>,
    topics: BTreeSet<String>,
    /// Read, and of later epochs.
    ahead: VecDeque<Answer>,
    remembered: VecDeque<(u64, blake3::Hash)>,
    /// Of requests before this, nothing is known unless they are remembered: progress is missing.
    passed: u64,
    /// All requests before this were bound.
    bound: u64,
    /// Whether an answer was read: before, answers may be missing because retention has passed.
    begun: bool,
}

/// An answer and the request that it is for.
struct Answer {
    /// Its own offset.
    offset: u64,
    /// The request's.
    request: u64,
    value: Vec<u8>,
}

/// The requests of a range.
pub(super) struct Requests {
    /// Their offsets, where they are known.
    pub(super) offsets: Option<Vec<u64>>,
    /// Whether it is known that all before them were bound; not where progress is missing.
    pub(super) follows: bool,
}

/// What was found for a range of requests.
pub(super) struct Taken {
    /// By the requests' offsets.
    pub(super) answers: BTreeMap<u64, Vec<u8>>,
    /// Whether all are there.
    pub(super) complete: bool,
}

/// An answer, as far as it says what it is for.
#[derive(Deserialize)]
struct Written {
    request: Asked,
}

#[derive(Deserialize)]
struct Asked {
    topic: String,
    partition: u32,
    offset: u64,
}

impl Answers {
    pub(super) fn open(pipeline: &Pipeline, broker: &dyn Broker) -> Result<Self> {
        let (mut asked, mut lanes, mut rest) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        // By answers' topic and partition: the partitions of requests that it answers.
        let mut known: BTreeMap<(String, u32), BTreeSet<(String, u32)>> = BTreeMap::new();
        let topic = |request: &crate::plan::Request| request.source.source.topic.clone().unwrap_or_default();
        for request in &pipeline.requests {
            let (asks, partitions) = topic(request);
            for partition in 0..request.partitions {
                known.entry((request.answers.clone(), partition)).or_default();
            }
            for partition in 0..partitions {
                let into = (request.answers.clone(), partition % request.partitions);
                if !known.entry(into).or_default().insert((asks.clone(), partition)) {
                    return Err(Fault::definition(format!(
                        "two kinds of requests read `{asks}` and answer into `{}`, so it cannot be told which answer is \
                         whose; give each its own topic of answers",
                        request.answers
                    )));
                }
            }
            asked.insert(request.name.clone(), asks);
        }
        let topics: BTreeSet<String> = asked.values().cloned().collect();
        let mut told = BTreeSet::new();
        let mut lane = |topic: &str, partition: u32, asks: Option<(String, u32)>| -> Result<Lane> {
            let at = (topic.to_owned(), partition);
            Ok(Lane {
                topic: topic.to_owned(),
                partition,
                log: Log::open(broker, topic, partition)?,
                asks,
                tells: told.insert(at.clone()),
                known: known.get(&at).cloned().unwrap_or_default(),
                topics: topics.clone(),
                ahead: VecDeque::new(),
                remembered: VecDeque::new(),
                passed: 0,
                bound: 0,
                begun: false,
            })
        };
        for request in &pipeline.requests {
            let (asks, partitions) = topic(request);
            for partition in 0..partitions {
                let made = lane(&request.answers, partition % request.partitions, Some((asks.clone(), partition)))?;
                lanes.insert((request.name.clone(), partition), made);
            }
        }
        for ((topic, partition), asks) in &known {
            if asks.is_empty() {
                rest.push(lane(topic, *partition, None)?);
            }
        }
        Ok(Self { delivery: pipeline.delivery, asked, lanes, rest, span: Vec::new() })
    }

    /// Whether a source's records are requests.
    pub(super) fn is_asked(&self, source: &str) -> bool {
        self.asked.contains_key(source)
    }

    /// Where the answers of the epoch were.
    pub(super) fn span(&self) -> String {
        self.span.join(", ")
    }

    /// An epoch begins.
    pub(super) fn begin(&mut self) {
        self.span.clear();
    }

    /// Takes the answers to the requests of a range.
    pub(super) fn take(&mut self, range: &Part, requests: Requests, report: &mut Report) -> Result<Taken> {
        let place = (range.source.clone(), range.partition);
        let (Some(lane), Some(offsets)) = (self.lanes.get_mut(&place), requests.offsets) else {
            report.answers.unproven += range.count;
            return Ok(Taken { answers: BTreeMap::new(), complete: false });
        };
        if !requests.follows {
            lane.passed = range.lo;
        }
        let found = lane.take(&offsets, range, self.delivery, report)?;
        let span = |at: u64, end: u64| format!("{}/{} offsets {at} to {end}", lane.topic, lane.partition);
        let ends = || found.values().map(|answer| answer.offset);
        self.span.extend(ends().min().zip(ends().max()).map(|(first, last)| span(first, last + 1)));
        let mut complete = true;
        for offset in &offsets {
            if found.contains_key(offset) {
                report.answers.checked += 1;
                continue;
            }
            complete = false;
            if !lane.begun && lane.log.first > 0 {
                report.answers.unproven += 1;
                continue;
            }
            report.answers.checked += 1;
            let request = format!("{}/{} offset {offset}", self.asked[&place.0], place.1);
            let message = format!("this request was bound, and has no answer in {}/{}", lane.topic, lane.partition);
            report.answers.wrong(request, message);
        }
        Ok(Taken { answers: found.into_iter().map(|(offset, answer)| (offset, answer.value)).collect(), complete })
    }

    /// After all epochs: what is left answers nothing.
    pub(super) fn finish(&mut self, report: &mut Report) -> Result<()> {
        let delivery = self.delivery;
        self.lanes.values_mut().chain(&mut self.rest).try_for_each(|lane| lane.finish(delivery, report))
    }

    /// All requests of a partition before `end` were bound; `known` says whether none after it were.
    pub(super) fn bound(&mut self, place: &Place, end: u64, known: bool) {
        if let Some(lane) = self.lanes.get_mut(place) {
            lane.bound = end;
            if !known {
                lane.passed = u64::MAX;
            }
        }
    }
}

impl Lane {
    /// The next answer to the lane's requests.
    fn next(&mut self, report: &mut Report) -> Result<Option<Answer>> {
        while let Some((offset, value)) = self.log.next()? {
            let written: Option<Written> = serde_json::from_slice(&value).ok();
            if let Some(Written { request }) = &written
                && self
                    .asks
                    .as_ref()
                    .is_some_and(|(topic, partition)| (topic, *partition) == (&request.topic, request.partition))
            {
                return Ok(Some(Answer { offset, request: request.offset, value }));
            }
            if self.tells {
                self.tell(offset, written, report);
            }
        }
        Ok(None)
    }

    /// Says what is wrong with an answer that is in no lane of this partition.
    fn tell(&self, offset: u64, written: Option<Written>, report: &mut Report) {
        let Some(Written { request: Asked { topic, partition, offset: asked } }) = written else {
            return report.strays.wrong(self.place(offset), "this is no answer");
        };
        if !self.topics.contains(&topic) {
            report.foreign += 1;
        } else if !self.known.contains(&(topic.clone(), partition)) {
            let message = format!("this answers {topic}/{partition} offset {asked}, whose answers belong elsewhere");
            report.strays.wrong(self.place(offset), message);
        }
    }

    fn place(&self, offset: u64) -> String {
        format!("{}/{} offset {offset}", self.topic, self.partition)
    }

    /// The answers to requests at `offsets`, which are all in `range`.
    fn take(
        &mut self,
        offsets: &[u64],
        range: &Part,
        delivery: Delivery,
        report: &mut Report,
    ) -> Result<BTreeMap<u64, Answer>> {
        let mut found: BTreeMap<u64, Answer> = BTreeMap::new();
        let mut ahead = std::mem::take(&mut self.ahead);
        while found.len() < offsets.len() && self.ahead.len() < LOOK_AHEAD {
            let read = ahead.pop_front();
            let Some(answer) = read.map_or_else(|| self.next(report), |answer| Ok(Some(answer)))? else { break };
            if answer.request >= range.hi {
                self.ahead.push_back(answer);
                continue;
            }
            self.begun = true;
            if offsets.binary_search(&answer.request).is_err() {
                self.judge(&answer, delivery, report);
            } else if let Some(first) = found.get(&answer.request) {
                let equal = first.value == answer.value;
                self.doubled(&answer, Some(equal), delivery, report);
            } else {
                found.insert(answer.request, answer);
            }
        }
        self.ahead.extend(ahead);
        for (request, answer) in &found {
            self.remembered.push_back((*request, blake3::hash(&answer.value)));
        }
        while self.remembered.len() > REMEMBERED {
            self.remembered.pop_front();
        }
        Ok(found)
    }

    /// An answer to a request that this epoch does not expect.
    fn judge(&self, answer: &Answer, delivery: Delivery, report: &mut Report) {
        let hash = blake3::hash(&answer.value);
        match self.remembered.binary_search_by_key(&answer.request, |(request, _)| *request) {
            Ok(at) => self.doubled(answer, Some(self.remembered[at].1 == hash), delivery, report),
            Err(0) if self.remembered.len() == REMEMBERED => self.doubled(answer, None, delivery, report),
            Err(_) if answer.request < self.passed => report.answers.unproven += 1,
            Err(_) => self.stray(answer, report),
        }
    }

    fn stray(&self, answer: &Answer, report: &mut Report) {
        let request = self.request(answer.request);
        report.strays.wrong(self.place(answer.offset), format!("this answers {request}, which no epoch has bound"));
    }

    fn doubled(&self, answer: &Answer, equal: Option<bool>, delivery: Delivery, report: &mut Report) {
        let how = match equal {
            Some(true) => "with the same answer",
            Some(false) => "with another answer",
            None => "long after, so that the two cannot be compared",
        };
        report.doubled += 1;
        if delivery == Delivery::ExactlyOnce || equal != Some(true) {
            let message = format!("{} is answered again, {how}", self.request(answer.request));
            report.answers.wrong(self.place(answer.offset), message);
        }
    }

    fn request(&self, offset: u64) -> String {
        let (topic, partition) = self.asks.as_ref().map_or(("", 0), |(topic, partition)| (topic.as_str(), *partition));
        format!("{topic}/{partition} offset {offset}")
    }

    /// What is left after all epochs, as far as the log went when the audit began.
    fn finish(&mut self, delivery: Delivery, report: &mut Report) -> Result<()> {
        let mut ahead = std::mem::take(&mut self.ahead);
        let end = self.log.end;
        loop {
            let read = ahead.pop_front();
            let Some(answer) = read.map_or_else(|| self.next(report), |answer| Ok(Some(answer)))? else {
                return Ok(());
            };
            if answer.offset >= end {
                continue;
            }
            if answer.request < self.bound.max(self.passed) {
                self.judge(&answer, delivery, report);
            } else if delivery == Delivery::AtLeastOnce {
                // It went out, and the run ended before its epoch was recorded; the next one answers it again.
                report.early += 1;
            } else {
                self.stray(&answer, report);
            }
        }
    }
}
