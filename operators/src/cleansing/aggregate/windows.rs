//! The windows of a key, and what becomes of them as rows come and time passes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::SchemaRef;
use millstream_engine::Result;
use millstream_engine::batch::Origin;
use millstream_engine::operator::{Given, Order, Relational, Row};
use serde::{Deserialize, Serialize};

use super::super::functions::{Function, column_of};
use super::kept::{Input, Kept};

/// Which rows belong together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Span {
    /// All.
    All,
    /// Those in windows of a length, that start at multiples of `every_ms`.
    Fixed { length_ms: i64, every_ms: i64 },
    /// Those of which each comes less than the gap after the one before.
    Session { gap_ms: i64 },
}

pub(super) struct Aggregate {
    pub(super) by: Vec<usize>,
    pub(super) at: usize,
    pub(super) span: Span,
    pub(super) corrections_ms: i64,
    pub(super) horizon_ms: i64,
    /// Whether rows may be taken back.
    pub(super) removes: bool,
    pub(super) functions: Vec<Function>,
    pub(super) schema: SchemaRef,
}

/// Why a row cannot be taken back.
const UNKNOWN: &str = "it takes back a row that was not there";

/// The windows of a key.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Windows {
    /// By their starts.
    open: Vec<Window>,
    /// The newest that was given, for requests.
    last: Option<Complete>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Window {
    start: i64,
    end: i64,
    /// How many rows it has.
    rows: i64,
    /// The newest row's origin.
    newest: Origin,
    /// Whether it was given, and not taken back.
    is_given: bool,
    kept: Kept,
    /// The results when it was given.
    given: Vec<Option<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Complete {
    start: i64,
    end: i64,
    results: Vec<Option<f64>>,
}

pub(super) struct View<'a> {
    times: &'a TimestampMillisecondArray,
    values: Input,
}

/// The values of given rows.
pub(super) struct Results {
    starts: Vec<i64>,
    ends: Vec<i64>,
    columns: Vec<Vec<Option<f64>>>,
}

impl Results {
    fn push(&mut self, start: i64, end: i64, results: impl Iterator<Item = Option<f64>>) {
        self.starts.push(start);
        self.ends.push(end);
        for (column, result) in self.columns.iter_mut().zip(results) {
            column.push(result);
        }
    }
}

impl Relational for Aggregate {
    type State = Windows;
    type View<'a> = View<'a>;
    type Values = Results;

    const TAKES_CHANGES: bool = true;

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key(&self, _: usize) -> &[usize] {
        &self.by
    }

    fn view<'a>(&self, _: usize, rows: &'a RecordBatch) -> Result<View<'a>> {
        let values = Input::of(&self.functions, self.has_sums(), rows)?;
        Ok(View { times: rows.column(self.at).as_primitive(), values })
    }

    fn values(&self) -> Results {
        Results { starts: Vec::new(), ends: Vec::new(), columns: vec![Vec::new(); self.functions.len()] }
    }

    fn take(&self, view: &View<'_>, row: Row, windows: &mut Windows, given: &mut Given<Results>) -> Result<(), String> {
        if view.times.is_null(row.index) {
            return Err("the event time is missing".to_owned());
        }
        let time = view.times.value(row.index);
        if let Some(window) = self.plainly(windows, row, time) {
            window.accumulate(view, row);
            return Ok(());
        }
        match self.span {
            Span::All if row.diff < 0 && windows.open.is_empty() => Err(UNKNOWN.to_owned()),
            Span::All => {
                self.change(view, row, windows, (i64::MIN, i64::MAX), given);
                Ok(())
            }
            Span::Fixed { length_ms, every_ms } => {
                let newest = time.div_euclid(every_ms) * every_ms;
                let oldest = newest - (length_ms - 1 - (time - newest)) / every_ms * every_ms;
                let is_open = |start: i64| !self.is_closed(start + length_ms, row.order);
                if !is_open(newest) {
                    return Err(self.too_late(newest + length_ms, row.order));
                }
                self.forget(windows, row.order.0);
                let all = || (oldest..=newest).step_by(every_ms as usize).filter(|start| is_open(*start));
                if row.diff < 0 && !all().all(|start| windows.open.iter().any(|window| window.start == start)) {
                    return Err(UNKNOWN.to_owned());
                }
                all().for_each(|start| self.change(view, row, windows, (start, start + length_ms), given));
                Ok(())
            }
            Span::Session { gap_ms } => {
                if self.is_closed(time + gap_ms, row.order) {
                    return Err(self.too_late(time + gap_ms, row.order));
                }
                self.forget(windows, row.order.0);
                self.join(view, row, windows, (time, time + gap_ms), given);
                Ok(())
            }
        }
    }

    fn touch(windows: &Windows) -> u64 {
        windows.open.last().map_or(0, |window| window.kept.touch() ^ window.start as u64)
    }

    fn due(&self, windows: &Windows) -> Option<Order> {
        if self.span == Span::All {
            return None;
        }
        // When it ends; and then, when it takes corrections no more.
        let next = |window: &Window| {
            if window.is_given { (self.closes(window), Origin::FIRST) } else { (window.end, window.newest) }
        };
        windows.open.iter().map(next).min()
    }

    fn fire(&self, now: Order, windows: &mut Windows, given: &mut Given<Results>) {
        let Windows { open, last } = windows;
        for window in open.iter_mut().filter(|window| (window.end, window.newest) < now && !window.is_given) {
            self.give((window.end, window.newest), window, given);
            remember(last, window);
        }
        self.forget(windows, now.0);
    }

    fn answer(
        &self,
        _: &View<'_>,
        row: Row,
        windows: &Windows,
        now: i64,
        given: &mut Given<Results>,
    ) -> Result<(), String> {
        if self.span == Span::All {
            let Some(all) = windows.open.first() else { return Err("nothing is known of its key".to_owned()) };
            given.row(row.order, 1).push(all.start, all.end, all.given());
            return Ok(());
        }
        let complete = windows.last.as_ref();
        let complete = complete.filter(|last| last.end.saturating_add(self.horizon_ms) >= now);
        let Some(last) = complete else { return Err("no window of its key is complete".to_owned()) };
        given.row(row.order, 1).push(last.start, last.end, last.results.iter().copied());
        Ok(())
    }

    fn finish(&self, keys: Vec<ArrayRef>, results: Results) -> Result<Vec<ArrayRef>> {
        let mut columns = keys;
        if self.span != Span::All {
            let bounds = [results.starts, results.ends];
            columns.extend(bounds.map(|times| Arc::new(TimestampMillisecondArray::from(times)) as ArrayRef));
        }
        for (function, results) in self.functions.iter().zip(results.columns) {
            columns.push(column_of(function, results)?);
        }
        Ok(columns)
    }

    fn expired(&self, windows: &Windows, watermark: i64) -> bool {
        let is_open = |window: &Window| !window.is_given || self.closes(window) > watermark;
        let answers = |last: &Complete| last.end.saturating_add(self.horizon_ms) >= watermark;
        !windows.open.iter().any(is_open) && !windows.last.as_ref().is_some_and(answers)
    }
}

/// Keeps the window for requests, if it is the newest that was given.
fn remember(last: &mut Option<Complete>, window: &Window) {
    match last {
        Some(last) if last.end <= window.end => {
            (last.start, last.end) = (window.start, window.end);
            last.results.clone_from(&window.given);
        }
        Some(_) => {}
        None => *last = Some(Complete { start: window.start, end: window.end, results: window.given.clone() }),
    }
}

impl Window {
    /// The results as they were given.
    fn given(&self) -> impl Iterator<Item = Option<f64>> {
        self.given.iter().copied()
    }

    /// Takes a row in, or takes it back.
    #[inline]
    fn accumulate(&mut self, view: &View<'_>, row: Row) {
        self.rows += row.diff;
        self.newest = row.order.1;
        self.kept.change(&view.values, row.index, row.diff, row.order);
    }

    /// Takes back what was given.
    fn take_back(&mut self, order: Order, given: &mut Given<Results>) {
        if std::mem::take(&mut self.is_given) {
            given.row(order, -1).push(self.start, self.end, self.given());
        }
    }
}

impl Aggregate {
    /// Whether all functions keep sums and nothing else.
    fn has_sums(&self) -> bool {
        !self.removes && self.functions.iter().all(Function::is_sum)
    }

    /// The window of a row for which there is nothing else to do: that of nearly all.
    #[inline]
    fn plainly<'a>(&self, windows: &'a mut Windows, row: Row, time: i64) -> Option<&'a mut Window> {
        let Span::Fixed { length_ms, every_ms } = self.span else { return None };
        let [window] = windows.open.as_mut_slice() else { return None };
        let is_its = window.start <= time && time < window.end && length_ms == every_ms;
        (is_its && !window.is_given && row.order.0 < window.end && row.diff > 0).then_some(window)
    }

    /// Gives a window as it is now.
    fn give(&self, order: Order, window: &mut Window, given: &mut Given<Results>) {
        window.is_given = true;
        window.kept.results(&self.functions, &mut window.given);
        given.row(order, 1).push(window.start, window.end, window.given());
    }

    fn closes(&self, window: &Window) -> i64 {
        window.end.saturating_add(self.corrections_ms)
    }

    /// Whether a window takes rows no more.
    fn is_closed(&self, end: i64, (now, _): Order) -> bool {
        end.saturating_add(self.corrections_ms) <= now
    }

    fn too_late(&self, end: i64, (now, _): Order) -> String {
        let late = now - end - self.corrections_ms;
        format!("its window was closed {late} ms before")
    }

    /// Drops windows that take rows no more.
    fn forget(&self, windows: &mut Windows, now: i64) {
        if self.span != Span::All {
            windows.open.retain(|window| !window.is_given || self.closes(window) > now);
        }
    }

    /// A row for the window of these bounds.
    fn change(
        &self,
        view: &View<'_>,
        row: Row,
        windows: &mut Windows,
        (start, end): (i64, i64),
        given: &mut Given<Results>,
    ) {
        let place = match windows.open.iter().rposition(|window| window.start <= start) {
            Some(place) if windows.open[place].start == start => place,
            before => {
                let place = before.map_or(0, |before| before + 1);
                windows.open.insert(place, self.window(start, end, row));
                place
            }
        };
        let Windows { open, last } = windows;
        let window = &mut open[place];
        window.accumulate(view, row);
        if self.span == Span::All || end <= row.order.0 {
            self.correct(row.order, window, last, given);
        }
        if window.rows == 0 {
            open.remove(place);
        }
    }

    fn window(&self, start: i64, end: i64, row: Row) -> Window {
        let kept = Kept::start(&self.functions, self.has_sums(), self.removes);
        Window { start, end, rows: 0, newest: row.order.1, is_given: false, kept, given: Vec::new() }
    }

    /// Takes back what was given of a window, and gives what it is now.
    fn correct(&self, order: Order, window: &mut Window, last: &mut Option<Complete>, given: &mut Given<Results>) {
        window.take_back(order, given);
        if window.rows > 0 {
            self.give(order, window, given);
            if self.span != Span::All {
                remember(last, window);
            }
        } else if last.as_ref().is_some_and(|last| (last.start, last.end) == (window.start, window.end)) {
            *last = None;
        }
    }

    /// A row that may join sessions, which the row makes one.
    fn join(
        &self,
        view: &View<'_>,
        row: Row,
        windows: &mut Windows,
        (start, end): (i64, i64),
        given: &mut Given<Results>,
    ) {
        let Windows { open, last } = windows;
        let first = open.partition_point(|window| window.end <= start);
        let after = first + open[first..].partition_point(|window| window.start < end);
        let mut joined = self.window(start, end, row);
        for mut session in open.drain(first..after) {
            session.take_back(row.order, given);
            joined.start = joined.start.min(session.start);
            joined.end = joined.end.max(session.end);
            joined.rows += session.rows;
            joined.kept.merge(&session.kept);
        }
        joined.accumulate(view, row);
        if joined.end <= row.order.0 {
            self.correct(row.order, &mut joined, last, given);
        }
        open.insert(first, joined);
    }
}
