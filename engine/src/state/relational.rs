//! State by key of operators on relations: rows of all ports one after the other, rows that come due as time passes, and rows
//! that are taken back.
//!
//! What an operator gives depends on the canonical order of its rows and on the watermark, never on how much is in an epoch: a
//! row finds given what came due before it, and an epoch ends by giving what is due at its watermark. What is given takes a place
//! in the canonical order itself (the row that caused it, or the time at which it came due), which lies between the watermarks
//! before and after the epoch. So operators after it see one order, too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, Int64Array, RecordBatch, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::store::{Place, Store};
use super::{Entries, ErasedKeyed, KeyList, KeyReader, KeyRef, KeyedInstance, Keys, LookUp, restore};
use crate::Result;
use crate::batch::{self, META, Meta, Origin, canonical};
use crate::operator::Rejects;
use crate::sequence::START;

/// A place in the canonical order: event time (milliseconds), then origin.
pub type Order = (i64, Origin);

/// A row that an operator takes.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The port that it came to.
    pub port: usize,
    /// Where it is in its batch.
    pub index: usize,
    /// Its place in the canonical order.
    pub order: Order,
    /// 1 if it is added, -1 if it is taken back.
    pub diff: i64,
}

/// An operator on relations: it has a state for each key, gives any number of rows for one, may take back what it gave, and
/// acts as time passes.
///
/// Rows come one after the other in canonical order, those of all ports among each other; of two rows in the same place, that of
/// the higher port comes first.
pub trait Relational: Send + Sync + 'static {
    /// What is kept for a key. Its default is what an unknown key has.
    type State: Default + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What it reads of a batch, found once.
    type View<'a>;
    /// The values of the rows that it gives, as far as they are not the key's: the builders of its columns.
    type Values;

    /// Whether its inputs may take back rows: see [`crate::batch::DIFF`].
    const TAKES_CHANGES: bool;

    /// Its output's schema.
    fn schema(&self) -> &SchemaRef;

    /// The columns of input `port` that make its key; with none, all rows share one state.
    fn key(&self, port: usize) -> &[usize];

    /// What it needs of these rows of input `port`.
    fn view<'a>(&self, port: usize, rows: &'a RecordBatch) -> Result<Self::View<'a>>;

    /// No values.
    fn values(&self) -> Self::Values;

    /// Takes a row. An error is why it cannot; then it must not have changed the state.
    fn take(
        &self,
        view: &Self::View<'_>,
        row: Row,
        state: &mut Self::State,
        given: &mut Given<Self::Values>,
    ) -> std::result::Result<(), String>;

    /// Reads some of what a state has in other memory, and gives anything that depends on it. It is called for the states of
    /// some rows together, so that none waits for the memory of the one before.
    fn touch(_: &Self::State) -> u64 {
        0
    }

    /// The place in the canonical order from which on the state has something to give.
    fn due(&self, state: &Self::State) -> Option<Order>;

    /// Gives what is due before `now`, at the place at which it came due: all rows before `now` were taken, none from there on.
    fn fire(&self, now: Order, state: &mut Self::State, given: &mut Given<Self::Values>);

    /// Answers a request of port 0 from the state, when the watermark is `now`. It gives one row; an error says why it cannot.
    fn answer(
        &self,
        view: &Self::View<'_>,
        row: Row,
        state: &Self::State,
        now: i64,
        given: &mut Given<Self::Values>,
    ) -> std::result::Result<(), String>;

    /// The columns of its output behind the engine's, without [`crate::batch::DIFF`], from those of the key and the values.
    fn finish(&self, keys: Vec<ArrayRef>, values: Self::Values) -> Result<Vec<ArrayRef>>;

    /// Whether a state can no longer influence anything from the time `watermark` on (milliseconds). The engine then drops it at
    /// leisure, so dropping must not be visible in results.
    fn expired(&self, state: &Self::State, watermark: i64) -> bool;
}

/// The rows that an operator gives, in the making.
pub struct Given<V> {
    orders: Vec<Order>,
    diffs: Vec<i64>,
    keys: KeyList,
    /// For each row, the one that caused it; only for requests.
    causes: Vec<u32>,
    /// The present key.
    key: KeyList,
    cause: u32,
    values: V,
}

impl<V> Given<V> {
    fn new(values: V) -> Self {
        let (orders, diffs, keys, causes, key) = Default::default();
        Self { orders, diffs, keys, causes, key, cause: 0, values }
    }

    /// Gives a row of the present key at `order`, added (`diff` 1) or taken back (-1). Its values have to be pushed to what
    /// this returns.
    pub fn row(&mut self, order: Order, diff: i64) -> &mut V {
        self.orders.push(order);
        self.diffs.push(diff);
        self.keys.push(self.key.get(0));
        self.causes.push(self.cause);
        &mut self.values
    }

    /// Of the same key.
    fn with(&mut self, key: KeyRef<'_>) -> &mut Self {
        self.key.clear();
        self.key.push(key);
        self
    }
}

/// Rows of one cause are told apart by `_index`, so that their order is the same wherever they are sorted. A record has one
/// row nearly always, whose index is 0.
const ROWS_OF_A_CAUSE: u32 = 1 << 10;

fn numbered(orders: &[Order]) -> Vec<u32> {
    let mut number = 0;
    let index = |at: usize| {
        number = if at > 0 && orders[at - 1] == orders[at] { number + 1 } else { 0 };
        orders[at].1.index.saturating_mul(ROWS_OF_A_CAUSE).saturating_add(number)
    };
    (0..orders.len()).map(index).collect()
}

/// A state, and for when it stands in the queue of those that have something to give.
#[derive(Default, Serialize, Deserialize)]
struct Timed<S> {
    state: S,
    #[serde(skip)]
    queued: Option<Order>,
}

/// A [`Relational`] operator with its state type hidden.
pub struct Related<R>(Arc<R>);

impl<R: Relational> Related<R> {
    /// Hides the state type.
    pub fn new(operator: R) -> Self {
        Self(Arc::new(operator))
    }
}

impl<R: Relational> ErasedKeyed for Related<R> {
    fn key(&self, port: usize) -> &[usize] {
        self.0.key(port)
    }

    fn takes_changes(&self) -> bool {
        R::TAKES_CHANGES
    }

    fn mount(self: Arc<Self>, schemas: &[SchemaRef], spread: &[usize]) -> Result<Box<dyn KeyedInstance>> {
        let reader = |(port, schema): (usize, &SchemaRef)| KeyReader::new(schema, self.0.key(port), spread);
        let readers = schemas.iter().enumerate().map(reader);
        Ok(Box::new(Instance {
            readers: readers.collect::<Result<_>>()?,
            store: Store::new(0, |timed: &Timed<R::State>| R::touch(&timed.state)),
            queue: BinaryHeap::new(),
            now: START,
            operator: self.0.clone(),
        }))
    }
}

struct Instance<R: Relational> {
    operator: Arc<R>,
    readers: Vec<KeyReader>,
    store: Store<Timed<R::State>>,
    /// The states that have something to give, earliest first. One that was changed since stands there more than once: the
    /// last that was queued counts.
    queue: BinaryHeap<Reverse<(Order, Place)>>,
    /// The watermark.
    now: Order,
}

impl<R: Relational> Instance<R> {
    /// Queues a state if it has something to give earlier than it is queued for.
    fn enqueue(&mut self, place: Place) {
        let timed = self.store.get(place);
        let Some(due) = self.operator.due(&timed.state) else { return };
        if timed.queued.is_none_or(|queued| due < queued) {
            self.store.note(place, |timed| timed.queued = Some(due));
            self.queue.push(Reverse((due, place)));
        }
    }

    fn take(&mut self, port: &mut Port<'_, R>, row: Row, given: &mut Given<R::Values>) -> Option<String> {
        let place = port.look_up.take(&mut self.store, &port.keys, row.index);
        let view = &port.view;
        let (operator, given) = (&self.operator, given.with(port.look_up.key(&port.keys, row.index)));
        let mut refused = None;
        self.store.change(place, |timed| {
            if timed.queued.is_some_and(|due| due < row.order) {
                operator.fire(row.order, &mut timed.state, given);
            }
            refused = operator.take(view, row, &mut timed.state, given).err();
        });
        self.enqueue(place);
        refused
    }

    /// Gives all that is due at the watermark.
    fn fire(&mut self, given: &mut Given<R::Values>) {
        while let Some(Reverse((due, place))) = self.queue.peek().copied().filter(|Reverse((due, _))| *due < self.now) {
            self.queue.pop();
            if self.store.peek(place).is_none_or(|timed| timed.queued != Some(due)) {
                continue;
            }
            let (operator, now) = (&self.operator, self.now);
            given.with(self.store.key(place));
            self.store.change(place, |timed| {
                timed.queued = None;
                operator.fire(now, &mut timed.state, given);
            });
            self.enqueue(place);
        }
    }

    fn finish(&self, given: Given<R::Values>, asked: Option<&RecordBatch>) -> Result<Option<RecordBatch>> {
        let rows = given.orders.len();
        if rows == 0 {
            return Ok(None);
        }
        let keys = self.readers[0].columns(&given.keys)?;
        let mut columns = meta(&given, asked)?;
        columns.extend(self.operator.finish(keys, given.values)?);
        let schema = self.operator.schema();
        if batch::is_changing(schema) {
            columns.push(Arc::new(Int64Array::from(given.diffs)));
        }
        let rows = RecordBatch::try_new(schema.clone(), columns)?;
        // Requests leave in the order in which they came.
        Ok(Some(if asked.is_some() { rows } else { canonical(schema, &[rows])? }))
    }
}

/// The engine's columns of the rows that were given. Those of a request are the request's own.
fn meta<V>(given: &Given<V>, asked: Option<&RecordBatch>) -> Result<Vec<ArrayRef>> {
    if let Some(rows) = asked {
        let causes = UInt32Array::from(given.causes.clone());
        let columns = rows.columns()[..META].iter().map(|column| Ok(take(column, &causes, None)?));
        return columns.collect();
    }
    let orders = &given.orders;
    let origins = || orders.iter().map(|order| order.1);
    let nothing: ArrayRef = Arc::new(BinaryViewArray::new_null(orders.len()));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(origins().map(|origin| origin.source).collect::<UInt32Array>()),
        Arc::new(origins().map(|origin| origin.partition).collect::<UInt32Array>()),
        Arc::new(origins().map(|origin| origin.offset).collect::<UInt64Array>()),
        Arc::new(UInt32Array::from(numbered(orders))),
        Arc::new(TimestampMillisecondArray::from_iter_values(orders.iter().map(|order| order.0))),
    ];
    columns.resize(META, nothing);
    Ok(columns)
}

impl<R: Relational> KeyedInstance for Instance<R> {
    fn learn(&mut self, ports: &[RecordBatch], rejects: &mut [Rejects]) -> Result<Option<RecordBatch>> {
        let operator = self.operator.clone();
        let mut given = Given::new(operator.values());
        let port = |(port, rows): (usize, _)| Port::new(&*operator, &self.readers[port], port, rows);
        let mut ports = ports.iter().enumerate().map(port).collect::<Result<Vec<_>>>()?;
        while let Some(next) = next(&ports) {
            let port = &mut ports[next];
            let row = port.row(next);
            port.next += 1;
            if let Some(reason) = self.take(port, row, &mut given) {
                rejects[next].push(row.index, reason);
            }
        }
        self.fire(&mut given);
        self.finish(given, None)
    }

    fn serve(&mut self, rows: &RecordBatch, rejects: &mut Rejects) -> Result<Option<RecordBatch>> {
        let mut given = Given::new(self.operator.values());
        let mut port = Port::new(&*self.operator, &self.readers[0], 0, rows)?;
        for index in 0..rows.num_rows() {
            let (_, found) = port.look_up.find(&self.store, &port.keys, index);
            let key = port.look_up.key(&port.keys, index);
            let state = match found {
                Some(place) => self.store.get(place),
                None => &self.store.unknown,
            };
            given.cause = index as u32;
            let row = Row { index, ..port.row_at(0, index) };
            if let Err(reason) = self.operator.answer(&port.view, row, &state.state, self.now.0, given.with(key)) {
                rejects.push(index, reason);
            }
        }
        self.finish(given, Some(rows))
    }

    fn acts(&self) -> bool {
        true
    }

    fn set_now(&mut self, now: Order) {
        self.now = self.now.max(now);
    }

    fn is_due(&self) -> bool {
        self.queue.peek().is_some_and(|Reverse((due, _))| *due < self.now)
    }

    fn sweep(&mut self, rows: usize, watermark: i64) {
        let operator = &self.operator;
        self.store.sweep(2 * rows, |timed| operator.expired(&timed.state, watermark));
    }

    fn keys(&self) -> usize {
        self.store.len()
    }

    fn begin(&mut self) {
        self.store.begin();
    }

    fn walk(&mut self, bytes: usize) -> Result<Vec<(u8, Entries)>> {
        self.store.walk(bytes)
    }

    fn is_walking(&self) -> bool {
        self.store.is_walking()
    }

    fn abandon(&mut self) {
        self.store.abandon();
    }

    fn restore(&mut self, bin: &[u8], wanted: &dyn Fn(usize) -> bool) -> Result<()> {
        let mut places = Vec::new();
        restore(bin, &self.readers[0], &mut self.store, wanted, |place| places.push(place))?;
        for place in places {
            self.enqueue(place);
        }
        Ok(())
    }
}

/// The rows of a port that are still to be taken.
struct Port<'a, R: Relational + 'a> {
    view: R::View<'a>,
    meta: Meta<'a>,
    keys: Keys,
    diffs: Option<&'a [i64]>,
    next: usize,
    look_up: LookUp,
}

impl<'a, R: Relational> Port<'a, R> {
    fn new(operator: &R, reader: &KeyReader, port: usize, rows: &'a RecordBatch) -> Result<Self> {
        let view = operator.view(port, rows)?;
        let (meta, keys, diffs) = (Meta::of(rows), reader.read(rows)?, batch::diffs(rows));
        Ok(Self { view, meta, keys, diffs, next: 0, look_up: LookUp::default() })
    }

    fn row(&self, port: usize) -> Row {
        self.row_at(port, self.next)
    }

    fn row_at(&self, port: usize, index: usize) -> Row {
        Row { port, index, order: self.meta.order(index), diff: self.diffs.map_or(1, |diffs| diffs[index]) }
    }
}

/// The port whose row comes next. Of rows in one place, that of the highest port.
fn next<R: Relational>(ports: &[Port<'_, R>]) -> Option<usize> {
    let waiting = |port: &usize| ports[*port].next < ports[*port].meta.time.len();
    if ports.len() == 1 {
        return Some(0).filter(waiting);
    }
    (0..ports.len()).rev().filter(waiting).min_by_key(|&port| ports[port].meta.order(ports[port].next))
}
