//! Units of measurement by dimension, with the names that people and instruments give them.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::sync::LazyLock;

/// A unit: `value` of it are `(value - zero) * per.0 / per.1` of its dimension's first unit.
///
/// Two numbers, not one factor, so that conversions are exact wherever their outcome is.
#[derive(Debug, PartialEq)]
pub(super) struct Unit {
    pub(super) dimension: &'static str,
    /// The usual symbol first.
    names: &'static [&'static str],
    per: (f64, f64),
    zero: f64,
}

impl Unit {
    /// The usual symbol.
    pub(super) fn symbol(&self) -> &'static str {
        self.names[0]
    }
}

/// From one unit to another of its dimension: `(value - from) * multiply / divide + to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conversion {
    from: f64,
    multiply: f64,
    divide: f64,
    to: f64,
}

impl Conversion {
    /// The units must be of one dimension.
    pub(super) fn new(from: &Unit, to: &Unit) -> Self {
        if std::ptr::eq(from, to) {
            return Self { from: 0.0, multiply: 1.0, divide: 1.0, to: 0.0 };
        }
        Self { from: from.zero, multiply: from.per.0 * to.per.1, divide: from.per.1 * to.per.0, to: to.zero }
    }

    pub(super) fn apply(self, value: f64) -> f64 {
        (value - self.from) * self.multiply / self.divide + self.to
    }
}

/// The unit of this name: as it is written here, or in other cases where no two units differ by that alone.
pub(super) fn unit(name: &str) -> Option<&'static Unit> {
    let name = name.trim();
    if let Some(unit) = EXACT.get(name) {
        return Some(unit);
    }
    let plain: String = name.chars().filter_map(plain).collect();
    EXACT.get(plain.as_str()).or_else(|| LOWER.get(&plain.to_lowercase())?.as_ref()).copied()
}

/// The symbols of all units, or of those of one dimension.
pub(super) fn symbols(dimension: Option<&str>) -> impl Iterator<Item = &'static str> {
    UNITS.iter().filter(move |unit| dimension.is_none_or(|name| unit.dimension == name)).map(Unit::symbol)
}

/// How the names here write what has several forms.
fn plain(c: char) -> Option<char> {
    match c {
        '²' => Some('2'),
        '³' => Some('3'),
        'μ' => Some('µ'),
        '^' => None,
        '_' => Some(' '),
        other => Some(other),
    }
}

static EXACT: LazyLock<HashMap<&'static str, &'static Unit>> =
    LazyLock::new(|| UNITS.iter().flat_map(|unit| unit.names.iter().map(move |name| (*name, unit))).collect());

/// By names in lower case; none where they are two units (`mW`, `MW`).
static LOWER: LazyLock<HashMap<String, Option<&'static Unit>>> = LazyLock::new(|| {
    let mut lower: HashMap<String, Option<&'static Unit>> = HashMap::new();
    for unit in UNITS.iter() {
        for name in unit.names {
            let same = lower.entry(name.to_lowercase()).or_insert(Some(unit));
            *same = same.filter(|other| std::ptr::eq(*other, unit));
        }
    }
    lower
});

static UNITS: LazyLock<Vec<Unit>> = LazyLock::new(|| {
    let mut units = Vec::new();
    for (dimension, table) in TABLES {
        units.extend(table.iter().map(|&(names, over, under)| {
            let zero = ZEROS.iter().find(|(name, _)| names[0] == *name).map_or(0.0, |(_, zero)| *zero);
            Unit { dimension, names, per: (over, under), zero }
        }));
    }
    units
});

/// What a unit shows where its dimension's first unit shows 0.
const ZEROS: &[(&str, f64)] = &[("°F", 32.0), ("K", 273.15), ("°R", 491.67)];

/// Names, and how many of the table's first unit it is, as a fraction.
type Row = (&'static [&'static str], f64, f64);

const TABLES: &[(&str, &[Row])] = &[
    ("length", LENGTH),
    ("area", AREA),
    ("volume", VOLUME),
    ("speed", SPEED),
    ("acceleration", ACCELERATION),
    ("mass", MASS),
    ("time", TIME),
    ("temperature", TEMPERATURE),
    ("pressure", PRESSURE),
    ("energy", ENERGY),
    ("power", POWER),
    ("force", FORCE),
    ("angle", ANGLE),
    ("frequency", FREQUENCY),
    ("voltage", VOLTAGE),
    ("current", CURRENT),
    ("flow", FLOW),
    ("share", SHARE),
    ("data", DATA),
];

const LENGTH: &[Row] = &[
    (&["m", "metre", "metres", "meter", "meters"], 1.0, 1.0),
    (&["km", "kilometre", "kilometres", "kilometer", "kilometers"], 1e3, 1.0),
    (&["cm", "centimetre", "centimetres", "centimeter", "centimeters"], 1.0, 1e2),
    (&["mm", "millimetre", "millimetres", "millimeter", "millimeters"], 1.0, 1e3),
    (&["µm", "um", "micrometre", "micrometres", "micrometer", "micrometers", "micron"], 1.0, 1e6),
    (&["nm", "nanometre", "nanometres", "nanometer", "nanometers"], 1.0, 1e9),
    (&["in", "inch", "inches", "\""], 254.0, 1e4),
    (&["ft", "foot", "feet"], 3048.0, 1e4),
    (&["yd", "yard", "yards"], 9144.0, 1e4),
    (&["mi", "mile", "miles"], 1_609_344.0, 1e3),
    (&["nmi", "NM", "nautical mile", "nautical miles"], 1852.0, 1.0),
];

const AREA: &[Row] = &[
    (&["m2", "square metre", "square metres", "square meter", "square meters", "sqm"], 1.0, 1.0),
    (&["km2", "square kilometre", "square kilometres"], 1e6, 1.0),
    (&["cm2", "square centimetre", "square centimetres"], 1.0, 1e4),
    (&["mm2", "square millimetre", "square millimetres"], 1.0, 1e6),
    (&["ha", "hectare", "hectares"], 1e4, 1.0),
    (&["in2", "sq in", "square inch", "square inches"], 64_516.0, 1e8),
    (&["ft2", "sq ft", "sqft", "square foot", "square feet"], 9_290_304.0, 1e8),
    (&["yd2", "sq yd", "square yard", "square yards"], 83_612_736.0, 1e8),
    (&["mi2", "sq mi", "square mile", "square miles"], 2_589_988_110_336.0, 1e6),
    (&["acre", "ac", "acres"], 40_468_564_224.0, 1e7),
];

const VOLUME: &[Row] = &[
    (&["m3", "cubic metre", "cubic metres", "cubic meter", "cubic meters"], 1.0, 1.0),
    (&["L", "l", "litre", "litres", "liter", "liters", "dm3"], 1.0, 1e3),
    (&["hL", "hl", "hectolitre", "hectolitres"], 1.0, 10.0),
    (&["cL", "cl", "centilitre", "centilitres"], 1.0, 1e5),
    (&["mL", "ml", "millilitre", "millilitres", "milliliter", "milliliters", "cm3", "cc"], 1.0, 1e6),
    (&["mm3", "µL", "µl", "uL", "microlitre"], 1.0, 1e9),
    (&["in3", "cubic inch", "cubic inches"], 16_387_064.0, 1e12),
    (&["ft3", "cubic foot", "cubic feet"], 28_316_846_592.0, 1e12),
    (&["gal", "US gal", "gallon", "gallons"], 3_785_411_784.0, 1e12),
    (&["imp gal", "imperial gallon", "imperial gallons"], 454_609.0, 1e8),
    (&["qt", "US qt", "quart", "quarts"], 946_352_946.0, 1e12),
    (&["pt", "US pt", "pint", "pints"], 473_176_473.0, 1e12),
    (&["fl oz", "US fl oz", "fluid ounce", "fluid ounces"], 295_735_295_625.0, 1e16),
    (&["bbl", "barrel", "barrels"], 158_987_294_928.0, 1e12),
];

const SPEED: &[Row] = &[
    (&["m/s", "mps", "m s-1", "metres per second", "meters per second"], 1.0, 1.0),
    (&["km/h", "kph", "kmh", "km/hr", "kilometres per hour", "kilometers per hour"], 1.0, 3.6),
    (&["km/s"], 1e3, 1.0),
    (&["cm/s"], 1.0, 1e2),
    (&["mm/s"], 1.0, 1e3),
    (&["mm/h", "mm/hr"], 1.0, 3.6e6),
    (&["mph", "mi/h", "miles per hour"], 44_704.0, 1e5),
    (&["kn", "kt", "kts", "knot", "knots"], 1852.0, 3600.0),
    (&["ft/s", "fps", "feet per second"], 3048.0, 1e4),
    (&["ft/min", "fpm", "feet per minute"], 3048.0, 6e5),
    (&["in/h", "in/hr"], 254.0, 3.6e7),
];

const ACCELERATION: &[Row] = &[
    (&["m/s2", "m s-2"], 1.0, 1.0),
    (&["g0", "gn", "standard gravity"], 980_665.0, 1e5),
    (&["mg0"], 980_665.0, 1e8),
    (&["Gal"], 1.0, 1e2),
    (&["ft/s2"], 3048.0, 1e4),
];

const MASS: &[Row] = &[
    (&["kg", "kilogram", "kilograms"], 1.0, 1.0),
    (&["g", "gram", "grams"], 1.0, 1e3),
    (&["mg", "milligram", "milligrams"], 1.0, 1e6),
    (&["µg", "ug", "mcg", "microgram", "micrograms"], 1.0, 1e9),
    (&["t", "tonne", "tonnes", "metric ton", "metric tons"], 1e3, 1.0),
    (&["lb", "lbs", "pound", "pounds"], 45_359_237.0, 1e8),
    (&["oz", "ounce", "ounces"], 45_359_237.0, 1.6e9),
    (&["oz t", "troy ounce", "troy ounces"], 311_034_768.0, 1e10),
    (&["gr", "grain", "grains"], 6_479_891.0, 1e11),
    (&["st", "stone"], 635_029_318.0, 1e8),
    (&["short ton", "short tons", "US ton"], 90_718_474.0, 1e5),
    (&["long ton", "long tons"], 10_160_469_088.0, 1e7),
];

const TIME: &[Row] = &[
    (&["s", "sec", "second", "seconds"], 1.0, 1.0),
    (&["ms", "millisecond", "milliseconds"], 1.0, 1e3),
    (&["µs", "us", "microsecond", "microseconds"], 1.0, 1e6),
    (&["ns", "nanosecond", "nanoseconds"], 1.0, 1e9),
    (&["min", "minute", "minutes"], 60.0, 1.0),
    (&["h", "hr", "hour", "hours"], 3600.0, 1.0),
    (&["d", "day", "days"], 86_400.0, 1.0),
    (&["wk", "week", "weeks"], 604_800.0, 1.0),
];

const TEMPERATURE: &[Row] = &[
    (&["°C", "C", "degC", "deg C", "celsius", "degrees celsius"], 1.0, 1.0),
    (&["°F", "F", "degF", "deg F", "fahrenheit", "degrees fahrenheit"], 5.0, 9.0),
    (&["K", "kelvin"], 1.0, 1.0),
    (&["°R", "degR", "rankine"], 5.0, 9.0),
];

const PRESSURE: &[Row] = &[
    (&["Pa", "pascal", "pascals", "N/m2"], 1.0, 1.0),
    (&["hPa", "hectopascal", "hectopascals"], 1e2, 1.0),
    (&["kPa", "kilopascal", "kilopascals"], 1e3, 1.0),
    (&["MPa", "megapascal", "megapascals", "N/mm2"], 1e6, 1.0),
    (&["bar", "bars"], 1e5, 1.0),
    (&["mbar", "mb", "millibar", "millibars"], 1e2, 1.0),
    (&["atm", "atmosphere", "atmospheres"], 101_325.0, 1.0),
    (&["psi", "lbf/in2"], 6_894_757_293_168.0, 1e9),
    (&["inHg", "in Hg"], 3_386_389.0, 1e3),
    (&["mmHg", "mm Hg"], 133_322_387_415.0, 1e9),
    (&["Torr"], 101_325.0, 760.0),
];

const ENERGY: &[Row] = &[
    (&["J", "joule", "joules"], 1.0, 1.0),
    (&["kJ", "kilojoule", "kilojoules"], 1e3, 1.0),
    (&["MJ", "megajoule", "megajoules"], 1e6, 1.0),
    (&["GJ", "gigajoule", "gigajoules"], 1e9, 1.0),
    (&["Wh", "watt hour", "watt hours"], 3.6e3, 1.0),
    (&["kWh", "kilowatt hour", "kilowatt hours"], 3.6e6, 1.0),
    (&["MWh", "megawatt hour", "megawatt hours"], 3.6e9, 1.0),
    (&["GWh", "gigawatt hour", "gigawatt hours"], 3.6e12, 1.0),
    (&["cal", "calorie", "calories"], 4184.0, 1e3),
    (&["kcal", "kilocalorie", "kilocalories"], 4184.0, 1.0),
    (&["BTU", "Btu"], 105_505_585_262.0, 1e8),
    (&["therm", "therms"], 105_505_585_262.0, 1e3),
    (&["eV", "electronvolt"], 1.602_176_634e-19, 1.0),
];

const POWER: &[Row] = &[
    (&["W", "watt", "watts", "J/s"], 1.0, 1.0),
    (&["mW", "milliwatt", "milliwatts"], 1.0, 1e3),
    (&["kW", "kilowatt", "kilowatts"], 1e3, 1.0),
    (&["MW", "megawatt", "megawatts"], 1e6, 1.0),
    (&["GW", "gigawatt", "gigawatts"], 1e9, 1.0),
    (&["hp", "horsepower"], 74_569_987_158_227.02, 1e11),
    (&["PS", "metric horsepower"], 73_549_875.0, 1e5),
    (&["BTU/h", "BTU/hr"], 105_505_585_262.0, 3.6e11),
];

const FORCE: &[Row] = &[
    (&["N", "newton", "newtons"], 1.0, 1.0),
    (&["kN", "kilonewton", "kilonewtons"], 1e3, 1.0),
    (&["kgf"], 980_665.0, 1e5),
    (&["lbf"], 44_482_216_152_605.0, 1e13),
];

const ANGLE: &[Row] = &[
    (&["rad", "radian", "radians"], 1.0, 1.0),
    (&["mrad", "milliradian", "milliradians"], 1.0, 1e3),
    (&["°", "deg", "degree", "degrees"], PI, 180.0),
    (&["arcmin", "arcminute", "arcminutes"], PI, 10_800.0),
    (&["arcsec", "arcsecond", "arcseconds"], PI, 648_000.0),
    (&["gon", "grad", "gradian", "gradians"], PI, 200.0),
    (&["turn", "turns", "rev", "revolution", "revolutions"], 2.0 * PI, 1.0),
];

const FREQUENCY: &[Row] = &[
    (&["Hz", "hertz", "1/s"], 1.0, 1.0),
    (&["kHz", "kilohertz"], 1e3, 1.0),
    (&["MHz", "megahertz"], 1e6, 1.0),
    (&["GHz", "gigahertz"], 1e9, 1.0),
    (&["rpm", "1/min", "bpm"], 1.0, 60.0),
];

const VOLTAGE: &[Row] = &[
    (&["V", "volt", "volts"], 1.0, 1.0),
    (&["mV", "millivolt", "millivolts"], 1.0, 1e3),
    (&["kV", "kilovolt", "kilovolts"], 1e3, 1.0),
];

const CURRENT: &[Row] = &[
    (&["A", "amp", "amps", "ampere", "amperes"], 1.0, 1.0),
    (&["mA", "milliamp", "milliamps", "milliampere", "milliamperes"], 1.0, 1e3),
    (&["µA", "uA", "microamp", "microamps"], 1.0, 1e6),
    (&["kA"], 1e3, 1.0),
];

const FLOW: &[Row] = &[
    (&["m3/s"], 1.0, 1.0),
    (&["m3/h"], 1.0, 3600.0),
    (&["L/s", "l/s"], 1.0, 1e3),
    (&["L/min", "l/min", "lpm"], 1.0, 6e4),
    (&["L/h", "l/h"], 1.0, 3.6e6),
    (&["gpm", "gal/min"], 3_785_411_784.0, 6e13),
    (&["cfm", "ft3/min"], 28_316_846_592.0, 6e13),
];

const SHARE: &[Row] = &[
    (&["1", "ratio", "share"], 1.0, 1.0),
    (&["%", "percent", "pct"], 1.0, 1e2),
    (&["‰", "permille"], 1.0, 1e3),
    (&["bp", "bps of 1", "basis points"], 1.0, 1e4),
    (&["ppm"], 1.0, 1e6),
    (&["ppb"], 1.0, 1e9),
];

const DATA: &[Row] = &[
    (&["B", "byte", "bytes"], 1.0, 1.0),
    (&["bit", "bits"], 1.0, 8.0),
    (&["kbit", "kilobit", "kilobits"], 125.0, 1.0),
    (&["Mbit", "megabit", "megabits"], 125e3, 1.0),
    (&["Gbit", "gigabit", "gigabits"], 125e6, 1.0),
    (&["kB", "kilobyte", "kilobytes"], 1e3, 1.0),
    (&["MB", "megabyte", "megabytes"], 1e6, 1.0),
    (&["GB", "gigabyte", "gigabytes"], 1e9, 1.0),
    (&["TB", "terabyte", "terabytes"], 1e12, 1.0),
    (&["KiB", "kibibyte", "kibibytes"], 1024.0, 1.0),
    (&["MiB", "mebibyte", "mebibytes"], 1_048_576.0, 1.0),
    (&["GiB", "gibibyte", "gibibytes"], 1_073_741_824.0, 1.0),
    (&["TiB", "tebibyte", "tebibytes"], 1_099_511_627_776.0, 1.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(value: f64, from: &str, to: &str) -> f64 {
        let [from, to] = [from, to].map(|name| unit(name).unwrap_or_else(|| panic!("there is no unit {name}")));
        assert_eq!(from.dimension, to.dimension);
        Conversion::new(from, to).apply(value)
    }

    #[test]
    fn known_conversions_are_exact() {
        for (value, from, to, expected) in [
            (100.0, "mph", "m/s", 44.704),
            (36.0, "km/h", "m/s", 10.0),
            (1.0, "kn", "km/h", 1.852),
            (50.0, "°F", "°C", 10.0),
            (-40.0, "°C", "°F", -40.0),
            (0.0, "°C", "K", 273.15),
            (0.0, "K", "°C", -273.15),
            (100.0, "degrees celsius", "F", 212.0),
            (1.0, "mi", "ft", 5280.0),
            (1.0, "lb", "oz", 16.0),
            (1.0, "st", "lb", 14.0),
            (1.0, "acre", "sq ft", 43_560.0),
            (1.0, "gal", "fl oz", 128.0),
            (1.0, "imp gal", "L", 4.54609),
            (1013.25, "hPa", "atm", 1.0),
            (760.0, "Torr", "bar", 1.01325),
            (2.0, "kWh", "MJ", 7.2),
            (90.0, "min", "h", 1.5),
            (180.0, "degrees", "rad", PI),
            (1.0, "turn", "deg", 360.0),
            (1.0, "GiB", "KiB", 1_048_576.0),
            (100.0, "Mbit", "MB", 12.5),
            (12.0, "%", "ratio", 0.12),
            (60.0, "L/min", "m3/h", 3.6),
        ] {
            let found = convert(value, from, to);
            assert!((found - expected).abs() <= 4.0 * f64::EPSILON * expected.abs(), "{value} {from}: {found} {to}");
        }
    }

    #[test]
    fn names_have_several_forms() {
        for (name, symbol) in
            [(" m² ", "m2"), ("m^3", "m3"), ("FEET", "ft"), ("Square_Feet", "ft2"), ("μg", "µg"), ("MPH", "mph")]
        {
            assert_eq!(unit(name).map(Unit::symbol), Some(symbol), "{name}");
        }
        assert_eq!((unit("mW").map(Unit::symbol), unit("MW").map(Unit::symbol)), (Some("mW"), Some("MW")));
        assert_eq!((unit("mw"), unit("furlong"), unit("")), (None, None, None), "ambiguous, unknown, none");
    }

    #[test]
    fn every_name_is_one_unit_and_every_conversion_has_its_inverse() {
        let names: usize = UNITS.iter().map(|unit| unit.names.len()).sum();
        assert_eq!(EXACT.len(), names, "a name stands twice");
        for (symbol, _) in ZEROS {
            assert_eq!(unit(symbol).map(Unit::symbol), Some(*symbol));
        }
        for from in UNITS.iter() {
            for to in UNITS.iter().filter(|to| to.dimension == from.dimension) {
                let back = Conversion::new(to, from).apply(Conversion::new(from, to).apply(7.0));
                assert!((back - 7.0).abs() < 1e-9, "{} {}: {back}", from.symbol(), to.symbol());
            }
            assert_eq!(Conversion::new(from, from).apply(7.1).to_bits(), 7.1_f64.to_bits());
        }
    }
}
