//! The picture as SVG: boxes in columns by how far they are from a start, arrows from left to right.

use std::fmt::Write;

use super::{Box, Picture, Shape};

/// Sizes in pixels.
const CHARACTER: usize = 8;
const LINE: usize = 18;
const PADDING: usize = 12;
const GAP_X: usize = 70;
const GAP_Y: usize = 24;

struct Placed {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

impl Picture {
    /// As an SVG picture.
    pub fn svg(&self) -> String {
        let places = self.place();
        let width = places.iter().map(|place| place.x + place.width).max().unwrap_or(0) + GAP_Y;
        let height = places.iter().map(|place| place.y + place.height).max().unwrap_or(0) + GAP_Y;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, monospace\" font-size=\"13\">\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
             orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#555\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for &(from, to, label) in &self.arrows {
            arrow(&mut out, &places[from], &places[to], label);
        }
        for (item, place) in self.boxes.iter().zip(&places) {
            item.draw(&mut out, place);
        }
        out.push_str("</svg>\n");
        out
    }

    /// How many arrows lead to each box at most. A round trip through a topic ends where it would begin again.
    fn ranks(&self) -> Vec<usize> {
        let mut ranks = vec![0; self.boxes.len()];
        for _ in 0..self.boxes.len() {
            let mut changed = false;
            for &(from, to, _) in &self.arrows {
                let rank = ranks[from] + 1;
                if ranks[to] < rank && rank < self.boxes.len() {
                    ranks[to] = rank;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        ranks
    }

    fn place(&self) -> Vec<Placed> {
        let ranks = self.ranks();
        let mut places: Vec<Placed> = self.boxes.iter().map(Box::size).collect();
        let mut columns: Vec<Vec<usize>> = vec![Vec::new(); ranks.iter().max().map_or(0, |rank| rank + 1)];
        ranks.iter().enumerate().for_each(|(at, rank)| columns[*rank].push(at));
        let mut x = GAP_Y;
        let mut middle: Vec<usize> = vec![0; self.boxes.len()];
        for column in &mut columns {
            if column.is_empty() {
                continue;
            }
            // Near to what leads here, so that few arrows cross.
            column.sort_by_key(|at| {
                let before: Vec<usize> =
                    self.arrows.iter().filter(|(_, to, _)| to == at).map(|(from, _, _)| middle[*from]).collect();
                before.iter().sum::<usize>() / before.len().max(1)
            });
            let mut y = GAP_Y;
            for &at in column.iter() {
                (places[at].x, places[at].y) = (x, y);
                middle[at] = y + places[at].height / 2;
                y += places[at].height + GAP_Y;
            }
            x += column.iter().map(|at| places[*at].width).max().unwrap_or(0) + GAP_X;
        }
        places
    }
}

impl Box {
    fn size(&self) -> Placed {
        let widest =
            std::iter::once(&self.title).chain(&self.lines).map(|line| line.chars().count()).max().unwrap_or(0);
        let (width, height) = (widest * CHARACTER + 2 * PADDING, (1 + self.lines.len()) * LINE + PADDING);
        Placed { x: 0, y: 0, width, height }
    }

    fn draw(&self, out: &mut String, place: &Placed) {
        let (fill, radius) = match self.shape {
            Shape::Topic => ("#e8f1fb", 14),
            Shape::Source => ("#e9f7ec", 6),
            Shape::Stream => ("#fafafa", 2),
            Shape::Model => ("#fdeed8", 6),
            Shape::Sink => ("#f3ebfa", 6),
        };
        let Placed { x, y, width, height } = place;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\" fill=\"{fill}\" stroke=\"#555\"/>"
        );
        for (at, line) in std::iter::once(&self.title).chain(&self.lines).enumerate() {
            let (x, y) = (x + PADDING, y + PADDING / 2 + LINE * at + 14);
            let weight = if at == 0 { " font-weight=\"bold\"" } else { "" };
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\"{weight}>{}</text>", escape(line));
        }
    }
}

fn arrow(out: &mut String, from: &Placed, to: &Placed, label: &str) {
    let (x1, y1) = (from.x + from.width, from.y + from.height / 2);
    let (x2, y2) = (to.x, to.y + to.height / 2);
    let bend = GAP_X / 2;
    let dashed = if label.is_empty() { "" } else { " stroke-dasharray=\"5 4\"" };
    let _ = writeln!(
        out,
        "<path d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#555\"{dashed} marker-end=\"url(#tip)\"/>",
        x1 + bend,
        x2.saturating_sub(bend)
    );
    if !label.is_empty() {
        let (x, y) = (usize::midpoint(x1, x2), usize::midpoint(y1, y2).saturating_sub(5));
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#555\">{label}</text>"
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
