//! Streams on which online learners are compared: generators after their published definitions, and files.
//!
//! A generator is its definition and a seed: the same numbers on every machine, and no two of a row depend on each other.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Rows of features with what is to be told of each.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What it is called in tables and as a file.
    pub name: String,
    /// Columns of numbers.
    pub dense: Vec<Vec<f64>>,
    /// Columns of categories: the codes, and how many there are.
    pub categories: Vec<(Vec<u32>, u32)>,
    /// The index of each row's class.
    pub classes: Vec<u32>,
}

impl Stream {
    fn new(name: impl Into<String>, dense: usize) -> Self {
        Self { name: name.into(), dense: vec![Vec::new(); dense], categories: Vec::new(), classes: Vec::new() }
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    fn push(&mut self, row: &[f64], class: bool) {
        self.dense.iter_mut().zip(row).for_each(|(column, x)| column.push(*x));
        self.classes.push(u32::from(class));
    }

    /// Reads `x,y,...,class` without a first line of names.
    pub fn read(name: &str, path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let mut stream: Option<Self> = None;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let number = |cell: &str| cell.trim().parse::<f64>().map_err(io::Error::other);
            let row = line.split(',').map(number).collect::<io::Result<Vec<f64>>>()?;
            let [features @ .., class] = row.as_slice() else { continue };
            stream.get_or_insert_with(|| Self::new(name, features.len())).push(features, *class > 0.5);
        }
        stream.ok_or_else(|| io::Error::other("it has no rows"))
    }

    /// Writes it for others: the numbers, then the categories, then the class, below a line of names `x0,…,c0,…,y`.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let dense = (0..self.dense.len()).map(|at| format!("x{at}"));
        let categories = (0..self.categories.len()).map(|at| format!("c{at}"));
        let mut text = dense.chain(categories).chain(["y".to_owned()]).collect::<Vec<_>>().join(",");
        text.push('\n');
        for row in 0..self.len() {
            // Writing to a string cannot fail.
            self.dense.iter().for_each(|column| {
                let _ = write!(text, "{},", column[row]);
            });
            self.categories.iter().for_each(|(column, _)| {
                let _ = write!(text, "{},", column[row]);
            });
            let _ = writeln!(text, "{}", self.classes[row]);
        }
        std::fs::write(path, text)
    }

    /// Writes it as Vowpal Wabbit reads it: labels -1 and 1.
    pub fn write_vw(&self, path: &Path) -> io::Result<()> {
        let mut text = String::new();
        for row in 0..self.len() {
            text.push_str(if self.classes[row] == 1 { "1 |" } else { "-1 |" });
            self.dense.iter().enumerate().for_each(|(at, column)| {
                let _ = write!(text, " x{at}:{}", column[row]);
            });
            self.categories.iter().enumerate().for_each(|(at, (column, _))| {
                let _ = write!(text, " c{at}={}", column[row]);
            });
            text.push('\n');
        }
        std::fs::write(path, text)
    }
}

/// Steele, Lea and Flood's split-mix generator (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [low, high).
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }
}

/// SEA (Street and Kim, "A streaming ensemble algorithm for large-scale classification", KDD 2001): three numbers in
/// [0, 10), of which the third says nothing; yes where the first two add up to more than the concept's threshold. Labels are turned over
/// with the probability `noise`. The concepts, 0 to 3, follow each other in equal parts of the stream.
pub fn sea(rows: usize, concepts: &[usize], noise: f64, seed: u64) -> Stream {
    const THRESHOLDS: [f64; 4] = [8.0, 9.0, 7.0, 9.5];
    let mut random = Random(seed);
    let mut stream = Stream::new("sea", 3);
    for row in 0..rows {
        let x = [(); 3].map(|()| random.between(0.0, 10.0));
        let threshold = THRESHOLDS[concepts[row * concepts.len() / rows]];
        let flipped = random.uniform() < noise;
        stream.push(&x, (x[0] + x[1] > threshold) != flipped);
    }
    stream
}

/// A rotating hyperplane (Hulten, Spencer and Domingos, "Mining time-changing data streams", KDD 2001; moving as in MOA): numbers in [0, 1), yes where their
/// weighted sum is at least half of the weights' sum. With each row the first `moving` weights go on by `change`; with a probability of 1 in 10
/// each turns around. Labels are turned over with the probability `noise`.
pub fn hyperplane(rows: usize, features: usize, moving: usize, change: f64, noise: f64, seed: u64) -> Stream {
    let mut random = Random(seed);
    let mut weights: Vec<f64> = (0..features).map(|_| random.uniform()).collect();
    let mut directions = vec![1.0; moving];
    let mut stream = Stream::new("hyperplane", features);
    for _ in 0..rows {
        let x: Vec<f64> = (0..features).map(|_| random.uniform()).collect();
        let sum: f64 = x.iter().zip(&weights).map(|(x, weight)| x * weight).sum();
        let flipped = random.uniform() < noise;
        stream.push(&x, (sum >= 0.5 * weights.iter().sum::<f64>()) != flipped);
        for (weight, direction) in weights.iter_mut().zip(&mut directions) {
            *weight += *direction * change;
            if random.uniform() < 0.1 {
                *direction = -*direction;
            }
        }
    }
    stream
}

/// Somebody who asks for a loan.
struct Person {
    salary: f64,
    commission: f64,
    age: f64,
    education: u32,
    house: f64,
    years: f64,
    loan: f64,
}

/// Agrawal, Imielinski and Swami, "Database mining: a performance perspective" (1993): people who ask for a loan, six numbers
/// and three categories of each; whether they are of group B by one of the paper's functions, 1 to 10. Nothing is perturbed.
pub fn agrawal(rows: usize, function: u32, seed: u64) -> Stream {
    let mut random = Random(seed);
    let mut stream = Stream::new("agrawal", 6);
    let mut categories = [(Vec::new(), 5), (Vec::new(), 20), (Vec::new(), 9)];
    for _ in 0..rows {
        let salary = random.between(20_000.0, 150_000.0);
        let commission = if salary >= 75_000.0 { 0.0 } else { random.between(10_000.0, 75_000.0) };
        let age = f64::from(20 + random.below(61));
        let (education, car, zip) = (random.below(5), random.below(20), random.below(9));
        let house = f64::from(9 - zip) * 100_000.0 * random.between(0.5, 1.5);
        let years = f64::from(1 + random.below(30));
        let person = Person { salary, commission, age, education, house, years, loan: random.between(0.0, 500_000.0) };
        stream.push(&[salary, commission, age, house, years, person.loan], !is_group_a(function, &person));
        for ((column, _), code) in categories.iter_mut().zip([education, car, zip]) {
            column.push(code);
        }
    }
    stream.categories = categories.into();
    stream
}

fn is_group_a(function: u32, person: &Person) -> bool {
    let Person { salary, commission, age, education, house, years, loan } = *person;
    let income = salary + commission;
    // By age: below 40, below 60, and above.
    let life = usize::from(age >= 40.0) + usize::from(age >= 60.0);
    let pays = [(50e3, 100e3), (75e3, 125e3), (25e3, 75e3)];
    let within = |value: f64, (low, high): (f64, f64)| (low..=high).contains(&value);
    let learned = (life as u32..=[1, 3, 4][life]).contains(&education);
    let burden = 5000.0 * f64::from(education);
    match function {
        1 => life != 1,
        2 => within(salary, pays[life]),
        3 => learned,
        4 => {
            let (if_learned, if_not) =
                [((25e3, 75e3), (50e3, 100e3)), ((50e3, 100e3), (75e3, 125e3)), ((50e3, 100e3), (25e3, 75e3))][life];
            within(salary, if learned { if_learned } else { if_not })
        }
        5 => {
            let (if_paid, if_not) =
                [((100e3, 300e3), (200e3, 400e3)), ((200e3, 400e3), (300e3, 500e3)), ((300e3, 500e3), (100e3, 300e3))]
                    [life];
            within(loan, if within(salary, pays[life]) { if_paid } else { if_not })
        }
        6 => within(income, pays[life]),
        7 => 2.0 * income / 3.0 - loan / 5.0 - 20e3 > 0.0,
        8 => 2.0 * income / 3.0 - burden - 20e3 > 0.0,
        9 => 2.0 * income / 3.0 - burden - loan / 5.0 - 10e3 > 0.0,
        _ => {
            let equity = if years >= 20.0 { house * (years - 20.0) / 10.0 } else { 0.0 };
            2.0 * income / 3.0 - burden + equity / 5.0 - 10e3 > 0.0
        }
    }
}

/// Rows of hashed categories only, as advertisements have them: each category moves the odds by its own part.
pub fn hashed(rows: usize, columns: usize, buckets: u32, seed: u64) -> Stream {
    let mut random = Random(seed);
    let mut stream = Stream::new("hashed", 0);
    let mut categories = vec![(Vec::with_capacity(rows), buckets); columns];
    for _ in 0..rows {
        let mut odds = 0.0;
        for (column, (codes, _)) in categories.iter_mut().enumerate() {
            // Few are frequent, most are rare.
            let code = (f64::from(buckets) * random.uniform() * random.uniform() * random.uniform()) as u32;
            odds += Random(u64::from(code) << 8 | column as u64).between(-0.5, 0.5);
            codes.push(code);
        }
        stream.classes.push(u32::from(random.uniform() < 1.0 / (1.0 + (-odds).exp())));
    }
    stream.categories = categories;
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(stream: &Stream) -> f64 {
        stream.classes.iter().map(|class| f64::from(*class)).sum::<f64>() / stream.len() as f64
    }

    #[test]
    fn shares_of_yes_are_those_of_the_definitions() {
        let near = |share: f64, want: f64| assert!((share - want).abs() < 0.02, "{share}, wanted {want}");
        // Below the threshold lies a triangle of 64/2 in a square of 100.
        near(share(&sea(20_000, &[0], 0.0, 1)), 0.68);
        near(share(&sea(20_000, &[0], 0.1, 1)), 0.9 * 0.68 + 0.1 * 0.32);
        near(share(&hyperplane(20_000, 10, 2, 0.001, 0.05, 1)), 0.5);
        // 20 of the 61 ages lie between 40 and 60.
        near(share(&agrawal(20_000, 1, 1)), 20.0 / 61.0);
        for function in 1..=10 {
            let share = share(&agrawal(5_000, function, 1));
            assert!((0.001..0.999).contains(&share), "function {function}: {share}");
        }
    }

    #[test]
    fn concepts_follow_each_other() {
        let stream = sea(4000, &[0, 1, 2, 3], 0.0, 7);
        for (row, threshold) in [(0, 8.0), (1500, 9.0), (2500, 7.0), (3999, 9.5)] {
            assert_eq!(stream.classes[row] == 1, stream.dense[0][row] + stream.dense[1][row] > threshold);
        }
    }

    #[test]
    fn seeds_give_the_same_streams() {
        assert_eq!(agrawal(50, 2, 3).dense, agrawal(50, 2, 3).dense);
        assert_ne!(hashed(50, 3, 100, 1).classes, hashed(50, 3, 100, 2).classes);
    }
}
