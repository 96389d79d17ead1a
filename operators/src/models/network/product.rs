//! Products of matrices whose bits do not depend on the machine, on the threads, or on how many rows come together.
//!
//! Each element is one chain of fused multiply-adds over the inner index, in its order, whatever the width of the registers
//! and the shape of the tiles: a row has the same result alone and among others, and the same one on every machine. Libraries
//! choose an order by the machine and the shape of the whole, so that a model would depend on both.
//! The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), less the copies.

// What is dispatched has the registers of the machine only where it is inlined.
#![allow(clippy::inline_always)]

use std::num::NonZero;
use std::sync::OnceLock;

use pulp::{Arch, Simd, WithSimd};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The left one of two matrices.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Left<'a> {
    /// It lies row after row, in rows of this length.
    Rows(&'a [f32], usize),
    /// It lies column after column, in columns of this length: what is multiplied is the transposed of a matrix.
    Columns(&'a [f32], usize),
}

/// `out = left * right`, or `out += left * right`. The right one and the result lie row after row.
#[derive(Debug)]
pub(in super::super) struct Product<'a> {
    pub(in super::super) left: Left<'a>,
    pub(in super::super) right: &'a [f32],
    pub(in super::super) out: &'a mut [f32],
    /// How many rows the left one and the result have.
    pub(in super::super) rows: usize,
    /// How many columns the left one has, and how many rows the right one.
    pub(in super::super) inner: usize,
    /// How many columns the right one and the result have.
    pub(in super::super) columns: usize,
    /// Whether the product is added to what is in `out`: the chains go on from there.
    pub(in super::super) is_added: bool,
}

/// How much of the inner index is gone through at once: so much of the right matrix stays in the nearest cache.
const DEPTH: usize = 256;
/// How many rows of the result are in the registers at once, where there are 32 of them.
const TILE_ROWS: usize = 12;

/// From so many multiply-adds on, a product is worth another thread.
pub(super) const WORTH_A_THREAD: usize = 1 << 22;

impl Left<'_> {
    /// Without so many of its first rows.
    fn without(self, row: usize) -> Self {
        match self {
            Self::Rows(values, stride) => Self::Rows(&values[row * stride..], stride),
            Self::Columns(values, stride) => Self::Columns(&values[row..], stride),
        }
    }
}

impl Product<'_> {
    /// Computes it, if it is large with so many threads: each has some rows of the result.
    pub(in super::super) fn run(self, threads: usize) {
        let Self { left, right, out, rows, inner, columns, is_added } = self;
        let threads = threads.min(rows * inner * columns / WORTH_A_THREAD);
        if threads < 2 {
            return Arch::new().dispatch(Self { left, right, out, rows, inner, columns, is_added });
        }
        let each = rows.div_ceil(threads).next_multiple_of(TILE_ROWS);
        let part = |(part, out): (usize, _)| (left.without(part * each), out);
        let mut parts: Vec<(Left<'_>, &mut [f32])> = out.chunks_mut(each * columns).enumerate().map(part).collect();
        on_threads(threads, &mut parts, |(left, out)| {
            let (left, rows) = (*left, out.len() / columns);
            Arch::new().dispatch(Product { left, right, out, rows, inner, columns, is_added });
        });
    }
}

/// Threads that wait for something to do, one less than there are cores: who has it to do is one more.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    POOL.get_or_init(|| ThreadPoolBuilder::new().num_threads(cores().max(2) - 1).build().ok()).as_ref()
}

/// Does `act` with each, on so many threads, of which this is one.
pub(super) fn on_threads<T: Send>(threads: usize, all: &mut [T], act: impl Fn(&mut T) + Sync) {
    let Some(pool) = (if threads < 2 { None } else { pool() }) else {
        return all.iter_mut().for_each(act);
    };
    let (own, rest) = all.split_at_mut(all.len().div_ceil(threads));
    pool.in_place_scope(|scope| {
        for others in rest.chunks_mut(own.len()) {
            scope.spawn(|_| others.iter_mut().for_each(&act));
        }
        own.iter_mut().for_each(&act);
    });
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, right, out, rows, inner, columns, mut is_added } = self;
        if inner == 0 && !is_added {
            out.fill(0.0);
        }
        for start in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - start);
            let right = &right[start * columns..][..depth * columns];
            let size = Size { rows, depth, columns, is_added };
            match left {
                Left::Rows(values, stride) => {
                    Run { simd, size, left: ByRow { values: &values[start..], stride }, right, out }.strips();
                }
                Left::Columns(values, stride) => {
                    Run { simd, size, left: ByColumn { values: &values[start * stride..], stride }, right, out }
                        .strips();
                }
            }
            is_added = true;
        }
    }
}

#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    depth: usize,
    columns: usize,
    is_added: bool,
}

/// One pass over the inner index.
struct Run<'a, S, L> {
    simd: S,
    size: Size,
    left: L,
    right: &'a [f32],
    out: &'a mut [f32],
}

/// Where the elements of the left matrix come from.
trait Source: Copy {
    /// Some rows of it, found once.
    type Rows<const N: usize>: Copy;

    fn rows<const N: usize>(self, first: usize, depth: usize) -> Self::Rows<N>;

    /// A column of those rows.
    fn column<const N: usize>(rows: Self::Rows<N>, at: usize) -> [f32; N];
}

#[derive(Clone, Copy)]
struct ByRow<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Source for ByRow<'a> {
    type Rows<const N: usize> = [&'a [f32]; N];

    #[inline(always)]
    fn rows<const N: usize>(self, first: usize, depth: usize) -> [&'a [f32]; N] {
        std::array::from_fn(|row| &self.values[(first + row) * self.stride..][..depth])
    }

    #[inline(always)]
    fn column<const N: usize>(rows: [&'a [f32]; N], at: usize) -> [f32; N] {
        std::array::from_fn(|row| rows[row][at])
    }
}

#[derive(Clone, Copy)]
struct ByColumn<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Source for ByColumn<'a> {
    type Rows<const N: usize> = (&'a [f32], usize);

    #[inline(always)]
    fn rows<const N: usize>(self, first: usize, _: usize) -> (&'a [f32], usize) {
        (&self.values[first..], self.stride)
    }

    #[inline(always)]
    fn column<const N: usize>((values, stride): (&'a [f32], usize), at: usize) -> [f32; N] {
        let column = &values[at * stride..][..N];
        std::array::from_fn(|row| column[row])
    }
}

impl<S: Simd, L: Source> Run<'_, S, L> {
    /// Strips of two registers' width, then what is left.
    #[inline(always)]
    fn strips(&mut self) {
        let (lanes, columns) = (S::F32_LANES, self.size.columns);
        let mut column = 0;
        while columns - column >= 2 * lanes {
            self.strip::<2>(column, 2 * lanes);
            column += 2 * lanes;
        }
        while column < columns {
            let width = lanes.min(columns - column);
            self.strip::<1>(column, width);
            column += width;
        }
    }

    /// Tiles of as many rows as the registers hold, then of fewer.
    #[inline(always)]
    fn strip<const V: usize>(&mut self, column: usize, width: usize) {
        let rows = self.size.rows;
        let mut row = 0;
        if S::F32_LANES >= 16 {
            while rows - row >= TILE_ROWS {
                self.tile::<TILE_ROWS, V>(row, column, width);
                row += TILE_ROWS;
            }
            if rows - row >= 8 {
                self.tile::<8, V>(row, column, width);
                row += 8;
            }
        }
        while rows - row >= 4 {
            self.tile::<4, V>(row, column, width);
            row += 4;
        }
        while rows - row >= 1 {
            self.tile::<1, V>(row, column, width);
            row += 1;
        }
    }

    /// `N` rows and `width` columns of the result, which fill `V` registers, or a part of one.
    #[inline(always)]
    fn tile<const N: usize, const V: usize>(&mut self, row: usize, column: usize, width: usize) {
        let Size { depth, columns, is_added, .. } = self.size;
        let (simd, lanes) = (self.simd, S::F32_LANES);
        let is_full = width == V * lanes;
        let load = |from: &[f32]| -> [S::f32s; V] {
            if is_full {
                let registers = S::as_simd_f32s(&from[..V * lanes]).0;
                std::array::from_fn(|register| registers[register])
            } else {
                [simd.partial_load_f32s(&from[..width]); V]
            }
        };
        let mut sums = [[simd.splat_f32s(0.0); V]; N];
        if is_added {
            for (at, sums) in sums.iter_mut().enumerate() {
                *sums = load(&self.out[(row + at) * columns + column..][..width]);
            }
        }
        let left = self.left.rows::<N>(row, depth);
        for at in 0..depth {
            let right = load(&self.right[at * columns + column..][..width]);
            let left = L::column(left, at);
            for (sums, left) in sums.iter_mut().zip(left) {
                let left = simd.splat_f32s(left);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_f32s(left, right, *sum);
                }
            }
        }
        for (at, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(row + at) * columns + column..][..width];
            if is_full {
                for (out, sum) in S::as_mut_simd_f32s(out).0.iter_mut().zip(sums) {
                    *out = *sum;
                }
            } else {
                simd.partial_store_f32s(out, sums[0]);
            }
        }
    }
}

/// The transposed of a matrix of so many rows and columns.
pub(super) fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut Vec<f32>) {
    const SIDE: usize = 8;
    to.resize(rows * columns, 0.0);
    let whole = |len: usize| len - len % SIDE;
    for row in (0..whole(rows)).step_by(SIDE) {
        for column in (0..whole(columns)).step_by(SIDE) {
            // A square goes through registers: each of its lines is read and written at once.
            let square: [[f32; SIDE]; SIDE] = std::array::from_fn(|at| {
                let line = &from[(row + at) * columns + column..][..SIDE];
                std::array::from_fn(|at| line[at])
            });
            for at in 0..SIDE {
                let line: [f32; SIDE] = std::array::from_fn(|row| square[row][at]);
                to[(column + at) * rows + row..][..SIDE].copy_from_slice(&line);
            }
        }
    }
    for row in 0..rows {
        let first = if row < whole(rows) { whole(columns) } else { 0 };
        for column in first..columns {
            to[column * rows + row] = from[row * columns + column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::Random;
    use super::*;

    #[test]
    fn all_are_done_on_any_number_of_threads() {
        for (len, threads) in [(1, 3), (5, 2), (5, 3), (6, 4), (7, 64), (0, 1)] {
            let mut all: Vec<usize> = (0..len).collect();
            on_threads(threads, &mut all, |at| *at += 100);
            assert_eq!(all, (100..100 + len).collect::<Vec<_>>(), "{threads}");
        }
    }

    /// All that a product has to be: one chain per element.
    fn chains(left: impl Fn(usize, usize) -> f32, right: &[f32], out: &mut [f32], [rows, inner, columns]: [usize; 3]) {
        for row in 0..rows {
            for column in 0..columns {
                let chain = |sum: f32, at: usize| left(row, at).mul_add(right[at * columns + column], sum);
                out[row * columns + column] = (0..inner).fold(out[row * columns + column], chain);
            }
        }
    }

    #[test]
    fn products_are_chains_of_multiply_adds() {
        let mut random = Random::seeded(1);
        let mut sizes = vec![
            [1, 1, 1],
            [0, 3, 2],
            [3, 0, 2],
            [3, 2, 0],
            [29, 600, 70],
            [12, 256, 32],
            [1, 300, 33],
            [131, 257, 260],
        ];
        sizes.extend((0..40).map(|_| [random.below(40), random.below(40), random.below(80)]));
        for size @ [rows, inner, columns] in sizes {
            let mut numbers = |len: usize| (0..len).map(|_| random.normal() as f32).collect::<Vec<_>>();
            let (left, right, before) = (numbers(rows * inner), numbers(inner * columns), numbers(rows * columns));
            let mut transposed = Vec::new();
            transpose(&left, rows, inner, &mut transposed);
            for is_added in [false, true] {
                let mut wanted = if is_added { before.clone() } else { vec![0.0; rows * columns] };
                chains(|row, at| left[row * inner + at], &right, &mut wanted, size);
                for left in [Left::Rows(&left, inner), Left::Columns(&transposed, rows)] {
                    let mut out = before.clone();
                    Product { left, right: &right, out: &mut out, rows, inner, columns, is_added }.run(3);
                    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&out), bits(&wanted), "{size:?}, {left:?}");
                }
            }
        }
    }
}
