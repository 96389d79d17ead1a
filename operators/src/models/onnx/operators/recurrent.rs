//! Recurrent layers: over sequences `[moments, rows, inputs]`.

use super::super::node::{Inputs, Kernel, Node};
use super::super::value::{Data, Dims, Done, Value, for_floats};
use super::functions::{Float, Size};

/// Which layer it is.
#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Plain,
    Gru { resets_before: bool },
    Lstm,
}

impl Cell {
    /// How many gates it has.
    fn gates(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Gru { .. } => 3,
            Self::Lstm => 4,
        }
    }

    /// The functions that are known, of a direction.
    fn functions(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["tanh"],
            Self::Gru { .. } => &["sigmoid", "tanh"],
            Self::Lstm => &["sigmoid", "tanh", "tanh"],
        }
    }
}

pub(super) fn rnn(node: &Node<'_>) -> Done<Kernel> {
    layer(node, Cell::Plain)
}

pub(super) fn gru(node: &Node<'_>) -> Done<Kernel> {
    layer(node, Cell::Gru { resets_before: node.int("linear_before_reset", 0) == 0 })
}

pub(super) fn lstm(node: &Node<'_>) -> Done<Kernel> {
    if node.int("input_forget", 0) != 0 || node.has_input(7) {
        return Err("peepholes and coupled gates are not known here".to_owned());
    }
    layer(node, Cell::Lstm)
}

fn layer(node: &Node<'_>, cell: Cell) -> Done<Kernel> {
    // Whether each direction goes through the moments backwards.
    let directions: &[bool] = match node.text("direction", "forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(format!("its direction is `{other}`, which is not known")),
    };
    let functions = node.texts("activations")?;
    let are_known =
        functions.iter().zip(cell.functions().iter().cycle()).all(|(one, known)| one.eq_ignore_ascii_case(known));
    if !are_known || node.has("clip") || node.int("layout", 0) != 0 || node.has_input(4) {
        let message =
            "other functions than its usual ones, `clip`, `layout` and lengths of sequences are not known here";
        return Err(message.to_owned());
    }
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        for_floats!(input, T => run::<T>(cell, directions, inputs, out))
    }))
}

/// The same array, whose rows are the columns of another.
fn turned<T: Float>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
}

fn run<T: Float>(cell: Cell, directions: &[bool], inputs: &Inputs<'_>, out: &mut [Value]) -> Done {
    let (input, recurrence) = (inputs.get(0)?, inputs.get(2)?);
    let (&[moments, rows, width], Some(&units)) = (&*input.dims, recurrence.dims.last()) else {
        return Err(format!("it takes moments of rows, and not {:?}", input.dims));
    };
    let gates = cell.gates();
    let count = directions.len();
    let sized = |at: usize, lengths: &[usize]| -> Done<Option<&[T]>> {
        let Some(value) = inputs.maybe(at) else { return Ok(None) };
        if *value.dims != *lengths {
            return Err(format!("its input {at} is of {:?}, and has to be of {lengths:?}", value.dims));
        }
        value.as_of::<T>().map(Some)
    };
    let needed = "it lacks its weights".to_owned();
    let weights = sized(1, &[count, gates * units, width])?.ok_or_else(|| needed.clone())?;
    let recurrent = sized(2, &[count, gates * units, units])?.ok_or(needed)?;
    let biases = sized(3, &[count, 2 * gates * units])?;
    let first = sized(5, &[count, rows, units])?;
    let first_cells = if cell == Cell::Lstm { sized(6, &[count, rows, units])? } else { None };
    let values = input.as_of::<T>()?;
    let mut all = vec![T::ZERO; Dims::of(&[moments, count, rows, units])?.elements()];
    let size = rows * units;
    let mut last = [vec![T::ZERO; count * size], vec![T::ZERO; count * size]];
    for (direction, backwards) in directions.iter().enumerate() {
        let part = |values: &[T], length: usize| values[direction * length..][..length].to_vec();
        let mut layer = Layer {
            cell,
            size: Size { rows, inner: width, columns: gates * units },
            units,
            weights: turned(&part(weights, gates * units * width), gates * units, width),
            recurrent: turned(&part(recurrent, gates * units * units), gates * units, units),
            biases: biases.map_or_else(|| vec![T::ZERO; 2 * gates * units], |all| part(all, 2 * gates * units)),
            state: first.map_or_else(|| vec![T::ZERO; size], |all| part(all, size)),
            cells: first_cells.map_or_else(|| vec![T::ZERO; size], |all| part(all, size)),
        };
        for step in 0..moments {
            let moment = if *backwards { moments - 1 - step } else { step };
            layer.step(&values[moment * rows * width..][..rows * width]);
            all[(moment * count + direction) * size..][..size].copy_from_slice(&layer.state);
        }
        last[0][direction * size..][..size].copy_from_slice(&layer.state);
        last[1][direction * size..][..size].copy_from_slice(&layer.cells);
    }
    let dims = Dims::of(&[count, rows, units])?;
    out[0].shaped::<T>(Dims::of(&[moments, count, rows, units])?).copy_from_slice(&all);
    for (out, last) in out[1..].iter_mut().zip(&last) {
        out.shaped::<T>(dims).copy_from_slice(last);
    }
    Ok(())
}

/// A direction of a layer at work.
struct Layer<T> {
    cell: Cell,
    /// Of the product with a moment.
    size: Size,
    units: usize,
    weights: Vec<T>,
    recurrent: Vec<T>,
    biases: Vec<T>,
    state: Vec<T>,
    cells: Vec<T>,
}

impl<T: Float> Layer<T> {
    /// Takes in a moment of all rows.
    fn step(&mut self, moment: &[T]) {
        let (units, columns) = (self.units, self.size.columns);
        if self.size.rows * columns == 0 {
            return;
        }
        let (own, other) = self.biases.split_at(columns);
        let repeated = |biases: &[T]| biases.repeat(self.size.rows);
        let (mut given, mut kept) = (repeated(own), repeated(other));
        T::product(moment, &self.weights, &mut given, self.size, true);
        let size = Size { inner: units, ..self.size };
        T::product(&self.state, &self.recurrent, &mut kept, size, true);
        if let Cell::Gru { resets_before: true } = self.cell {
            self.reset_before(&given, &mut kept);
        }
        let rows = given.chunks_exact(columns).zip(kept.chunks_exact(columns));
        let states = self.state.chunks_exact_mut(units).zip(self.cells.chunks_exact_mut(units));
        for ((given, kept), (state, cells)) in rows.zip(states) {
            let both = |at: usize| given[at].add(kept[at]);
            for unit in 0..units {
                state[unit] = match self.cell {
                    Cell::Plain => both(unit).hyperbolic_tangent(),
                    Cell::Gru { resets_before } => {
                        let (update, reset) = (both(unit).sigmoid(), both(units + unit).sigmoid());
                        let kept = kept[2 * units + unit];
                        let kept = if resets_before { kept } else { reset.mul(kept) };
                        let new = given[2 * units + unit].add(kept).hyperbolic_tangent();
                        T::ONE.sub(update).mul(new).add(update.mul(state[unit]))
                    }
                    // Gates: in, out, forget, cell.
                    Cell::Lstm => {
                        let [enter, leave, keep] = [0, 1, 2].map(|gate| both(gate * units + unit).sigmoid());
                        let new = both(3 * units + unit).hyperbolic_tangent();
                        cells[unit] = keep.mul(cells[unit]).add(enter.mul(new));
                        leave.mul(cells[unit].hyperbolic_tangent())
                    }
                };
            }
        }
    }

    /// Computes the last gate's part of the state anew, from the state that is reset.
    fn reset_before(&self, given: &[T], kept: &mut [T]) {
        let (units, columns, rows) = (self.units, self.size.columns, self.size.rows);
        let mut reset = self.state.clone();
        for (at, state) in reset.iter_mut().enumerate() {
            let place = at / units * columns + units + at % units;
            *state = state.mul(given[place].add(kept[place]).sigmoid());
        }
        let mut all = self.biases[columns..].repeat(rows);
        T::product(&reset, &self.recurrent, &mut all, Size { inner: units, ..self.size }, true);
        for (kept, all) in kept.chunks_exact_mut(columns).zip(all.chunks_exact(columns)) {
            kept[2 * units..].copy_from_slice(&all[2 * units..]);
        }
    }
}
