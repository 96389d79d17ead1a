//! Layer norm and batch norm on the processor. All sums have a fixed order.

use super::compute::{EPSILON, MOMENTUM};

/// Keeps the mean and the inverse deviation of each row.
pub(super) fn layer_norm(input: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32], kept: &mut Vec<f32>) {
    let width = gain.len();
    kept.clear();
    for (out, input) in out.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
        let mean = input.iter().sum::<f32>() / width as f32;
        let variance = input.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        kept.extend([mean, scale]);
        for column in 0..width {
            out[column] = (input[column] - mean) * scale * gain[column] + shift[column];
        }
    }
}

/// The gradient of the input into `to`; `sum` gets each row's normalised input and its gradient.
pub(super) fn layer_norm_back(
    input: &[f32],
    kept: &[f32],
    out: &[f32],
    width: usize,
    to: &mut Vec<f32>,
    gain: &[f32],
    mut sum: impl FnMut(&[f32], &[f32]),
) {
    to.resize(out.len(), 0.0);
    let mut normal = vec![0.0; width];
    let rows = input.chunks_exact(width).zip(out.chunks_exact(width)).zip(kept.chunks_exact(2));
    for (to, ((input, out), kept)) in to.chunks_exact_mut(width).zip(rows) {
        let [mean, scale] = [kept[0], kept[1]];
        normal.iter_mut().zip(input).for_each(|(normal, x)| *normal = (x - mean) * scale);
        let (mut by_one, mut by_normal) = (0.0, 0.0);
        for column in 0..width {
            let value = out[column] * gain[column];
            by_one += value;
            by_normal += value * normal[column];
        }
        let (by_one, by_normal) = (by_one / width as f32, by_normal / width as f32);
        for column in 0..width {
            to[column] = scale * (out[column] * gain[column] - by_one - normal[column] * by_normal);
        }
        sum(&normal, out);
    }
}

/// The means of the columns, then their variances.
pub(super) fn column_moments(input: &[f32], width: usize, to: &mut Vec<f32>) {
    let rows = (input.len() / width.max(1)).max(1) as f32;
    to.clear();
    to.resize(2 * width, 0.0);
    let (means, variances) = to.split_at_mut(width);
    for row in input.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    means.iter_mut().for_each(|mean| *mean /= rows);
    for row in input.chunks_exact(width) {
        for ((variance, mean), x) in variances.iter_mut().zip(&*means).zip(row) {
            *variance += (x - mean) * (x - mean);
        }
    }
    variances.iter_mut().for_each(|variance| *variance /= rows);
}

/// Lets the statistics of the past know the means and variances of a mini-batch; its variances as those of a sample.
pub(super) fn remember(moments: &[f32], past: &mut [f32], rows: usize) {
    let width = moments.len() / 2;
    let more = rows as f32 / (rows as f32 - 1.0).max(1.0);
    for (at, (past, new)) in past.iter_mut().zip(moments).enumerate() {
        let new = if at < width { *new } else { new * more };
        *past += MOMENTUM * (new - *past);
    }
}

/// The gradient of the input into `to`, and those of the gains and the shifts.
pub(super) fn batch_norm_back(
    input: &[f32],
    kept: &[f32],
    out: &[f32],
    width: usize,
    to: &mut Vec<f32>,
    gain: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let rows = (input.len() / width.max(1)).max(1) as f32;
    let (means, scales) = kept.split_at(width);
    let (mut by_gain, mut by_shift) = (vec![0.0; width], vec![0.0; width]);
    for (input, out) in input.chunks_exact(width).zip(out.chunks_exact(width)) {
        for column in 0..width {
            by_shift[column] += out[column];
            by_gain[column] += out[column] * (input[column] - means[column]) * scales[column];
        }
    }
    to.resize(out.len(), 0.0);
    let lines = input.chunks_exact(width).zip(out.chunks_exact(width));
    for (to, (input, out)) in to.chunks_exact_mut(width).zip(lines) {
        for column in 0..width {
            let normal = (input[column] - means[column]) * scales[column];
            let rest = out[column] - by_shift[column] / rows - normal * by_gain[column] / rows;
            to[column] = gain[column] * scales[column] * rest;
        }
    }
    (by_gain, by_shift)
}
