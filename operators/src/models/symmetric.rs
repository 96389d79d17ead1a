//! Symmetric matrices, of which only the lower half is kept, row after row; and when to solve with them.

/// How many cells the lower half has.
pub(super) fn cells(size: usize) -> usize {
    size * (size + 1) / 2
}

/// The place of a cell on or below the diagonal.
#[inline]
pub(super) fn cell(row: usize, column: usize) -> usize {
    cells(row) + column
}

/// Replaces a positive definite matrix by its Cholesky factor L, with L L' = A. A coordinate that says nothing
/// beyond those before it, but for rounding, gets no part in any solution.
pub(super) fn factor(matrix: &mut [f64], size: usize) {
    /// A diagonal so large that what is divided by it is nothing.
    const NONE: f64 = 1e150;
    for row in 0..size {
        let (above, own) = matrix.split_at_mut(cells(row));
        for column in 0..row {
            let other = &above[cells(column)..=cell(column, column)];
            own[column] = (own[column] - dot(&own[..column], &other[..column])) / other[column];
        }
        let whole = own[row];
        let left = whole - dot(&own[..row], &own[..row]);
        own[row] = if left > whole.abs() * 1e-13 { left.sqrt() } else { NONE };
    }
}

/// Solves L z = b in place.
#[inline]
pub(super) fn solve_lower(factor: &[f64], b: &mut [f64]) {
    for row in 0..b.len() {
        let own = &factor[cells(row)..=cell(row, row)];
        b[row] = (b[row] - dot(&own[..row], &b[..row])) / own[row];
    }
}

/// Solves L L' x = b in place.
pub(super) fn solve(factor: &[f64], b: &mut [f64]) {
    solve_lower(factor, b);
    for row in (0..b.len()).rev() {
        let own = &factor[cells(row)..=cell(row, row)];
        b[row] /= own[row];
        let x = b[row];
        for (other, part) in b[..row].iter_mut().zip(own) {
            *other -= part * x;
        }
    }
}

/// The logarithm of the determinant of L.
pub(super) fn log_determinant(factor: &[f64], size: usize) -> f64 {
    (0..size).map(|row| libm::log(factor[cell(row, row)])).sum()
}

/// A sum of products in four interleaved parts: fixed in order, and faster than one chain of additions.
#[inline]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut parts = [0.0; 4];
    let (a, b) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for at in 0..4 {
            parts[at] += x[at] * y[at];
        }
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3]) + rest
}

/// Whether a model with so many matrices of such a size is solved anew when it has so many examples: small ones always;
/// larger ones while examples are few, and then when their number has grown by a 64th to a 32nd. It depends on nothing
/// but that number, so it does not matter how a stream is cut, nor what came and was taken back before.
pub(super) fn due(matrices: usize, size: usize, examples: u64) -> bool {
    let small = matrices.saturating_mul(size.saturating_mul(size)) <= 2048;
    small || examples < 64 || examples.is_multiple_of(1 << (examples.ilog2() - 6))
}

#[cfg(test)]
mod tests {
    use super::super::samples::Random;
    use super::*;

    #[test]
    fn solutions_solve() {
        for seed in 0..30 {
            let mut random = Random::seeded(seed);
            let size = 1 + random.below(12);
            let rows: Vec<Vec<f64>> = (0..40).map(|_| (0..size).map(|_| random.normal()).collect()).collect();
            let mut matrix = vec![0.0; cells(size)];
            for x in &rows {
                for row in 0..size {
                    (0..=row).for_each(|column| matrix[cell(row, column)] += x[row] * x[column]);
                }
            }
            let truth: Vec<f64> = (0..size).map(|_| random.normal()).collect();
            let at = |row: usize, column: usize| matrix[cell(row.max(column), row.min(column))];
            let mut b: Vec<f64> =
                (0..size).map(|row| (0..size).map(|column| at(row, column) * truth[column]).sum()).collect();
            let mut factored = matrix.clone();
            factor(&mut factored, size);
            solve(&factored, &mut b);
            b.iter().zip(&truth).for_each(|(x, truth)| assert!((x - truth).abs() < 1e-8, "{x}, wanted {truth}"));
        }
    }

    #[test]
    fn a_column_that_comes_twice_gets_one_weight() {
        // Both columns are the same: A = [[4, 4], [4, 4]], b = [8, 8].
        let (mut matrix, mut b) = (vec![4.0, 4.0, 4.0], vec![8.0, 8.0]);
        factor(&mut matrix, 2);
        solve(&matrix, &mut b);
        assert!((b[0] - 2.0).abs() < 1e-12 && b[1].abs() < 1e-12, "{b:?}");
    }

    #[test]
    fn solving_is_due_at_fixed_numbers_of_examples() {
        assert!((0..10_000).all(|examples| due(2, 32, examples)), "small models");
        let points: Vec<u64> = (0..1_000_000).filter(|examples| due(1, 100, *examples)).collect();
        assert!(points.windows(2).all(|pair| pair[1] - pair[0] <= (pair[0] / 64).max(1)));
        assert!(points.len() < 1200, "{}", points.len());
    }
}
