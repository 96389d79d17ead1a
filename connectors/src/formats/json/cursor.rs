//! A strict JSON parser (RFC 8259) over one record, without allocation: values are pulled by who knows their type.

/// How deep arrays and objects may nest.
const DEPTH_MAX: u32 = 64;
/// How much of a wrong value a reason shows.
const SHOWN_MAX: usize = 32;

/// Why a record is refused.
pub(super) type Reason = String;

/// A place in a record.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    raw: &'a str,
    escapes: bool,
}

/// A number, taken apart: `±mantissa · 10^exponent` where it has at most 19 digits.
pub(super) struct Number<'a> {
    text: &'a str,
    negative: bool,
    mantissa: u64,
    digits: u32,
    exponent: i64,
    integer: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(super) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Reason> {
        if self.eat(byte) { Ok(()) } else { Err(self.error(&format!("expected `{}`", char::from(byte)))) }
    }

    /// Goes on past `bytes` if they are next.
    #[inline]
    pub(super) fn eat_all(&mut self, bytes: &[u8]) -> bool {
        let found = starts_with(&self.text.as_bytes()[self.at..], bytes);
        self.at += if found { bytes.len() } else { 0 };
        found
    }

    /// Nothing but space may follow.
    pub(super) fn end(&mut self) -> Result<(), Reason> {
        self.space();
        if self.peek().is_none() { Ok(()) } else { Err(self.error("expected the end")) }
    }

    #[cold]
    pub(super) fn error(&self, expected: &str) -> Reason {
        if self.peek().is_some() {
            format!("not JSON at byte {}: {expected}", self.at)
        } else {
            format!("not JSON: cut off at byte {}: {expected}", self.at)
        }
    }

    /// Why a value cannot be in a column; the value itself may be broken, too.
    #[cold]
    pub(super) fn mismatch(&self, expected: &str) -> Reason {
        let mut after = self.clone();
        if let Err(reason) = after.skip() {
            return reason;
        }
        let kind = match self.peek() {
            Some(b'"') => "the text",
            Some(b'{') => "the object",
            Some(b'[') => "the array",
            Some(b't' | b'f') => "the truth value",
            _ => "the number",
        };
        let mut shown: String = self.text[self.at..after.at].chars().take(SHOWN_MAX).collect();
        if shown.len() < after.at - self.at {
            shown.push('…');
        }
        format!("expected {expected}, found {kind} {shown}")
    }

    /// A string, from its opening quote.
    #[inline]
    pub(super) fn text(&mut self) -> Result<Text<'a>, Reason> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escapes = false;
        loop {
            self.at += plain(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escapes });
                }
                Some(b'\\') => {
                    escapes = true;
                    let mut rest = self.text.as_bytes()[self.at..].iter();
                    unescape(&mut rest).map_err(|why| self.error(why))?;
                    self.at = self.text.len() - rest.len();
                }
                Some(_) => return Err(self.error("control characters in texts must be escaped")),
                None => return Err(self.error("expected `\"`")),
            }
        }
    }

    /// A number as most are written, if it is next: an optional sign, few digits, perhaps a fraction of few digits.
    #[inline]
    pub(super) fn plain_float(&mut self) -> Option<f64> {
        let bytes = &self.text.as_bytes()[self.at..];
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        if let Some((mantissa, places, length)) = word(bytes, start).and_then(short_decimal) {
            self.at += start + length;
            return Some(decimal(negative, mantissa, places));
        }
        let mut mantissa = 0;
        let mut at = plain_digits(bytes, start, &mut mantissa);
        let mut places = 0;
        if bytes.get(at) == Some(&b'.') {
            let end = plain_digits(bytes, at + 1, &mut mantissa);
            places = end - at - 1;
            // A point needs a digit on either side.
            if places == 0 {
                return None;
            }
            at = end;
        }
        if at == start || !is_plain(bytes, start, at) {
            return None;
        }
        self.at += at;
        Some(decimal(negative, mantissa, places))
    }

    /// A string without escapes, if one is next.
    #[inline]
    pub(super) fn plain_text(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        let text = self.text.get(start..).filter(|_| self.peek() == Some(b'"'))?;
        let end = plain(text.as_bytes());
        if text.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.at = start + end + 1;
        Some(&text[..end])
    }

    /// The same of whole numbers.
    #[inline]
    pub(super) fn plain_int(&mut self) -> Option<i64> {
        let bytes = &self.text.as_bytes()[self.at..];
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let mut value = 0;
        let at = plain_digits(bytes, start, &mut value);
        if at == start || !is_plain(bytes, start, at) {
            return None;
        }
        self.at += at;
        Some(if negative { -(value as i64) } else { value as i64 })
    }

    /// A number, from its sign or first digit.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number<'a>, Reason> {
        let start = self.at;
        let negative = self.eat(b'-');
        let mut number = Number { text: "", negative, mantissa: 0, digits: 0, exponent: 0, integer: true };
        if !self.eat(b'0') {
            self.digits(&mut number)?;
        }
        if self.eat(b'.') {
            number.integer = false;
            number.exponent = -(self.digits(&mut number)? as i64);
        }
        if self.eat(b'e') || self.eat(b'E') {
            number.integer = false;
            number.exponent += self.exponent()?;
        }
        number.text = &self.text[start..self.at];
        Ok(number)
    }

    /// One digit or more, as further digits of the mantissa; how many.
    #[inline]
    fn digits(&mut self, number: &mut Number<'_>) -> Result<usize, Reason> {
        let start = self.at;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            number.mantissa = number.mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            // Leading zeros do not count, so that a mantissa of 19 digits has not overflowed.
            number.digits += u32::from(number.digits > 0 || byte != b'0');
            self.at += 1;
        }
        if self.at == start { Err(self.error("expected a value")) } else { Ok(self.at - start) }
    }

    fn exponent(&mut self) -> Result<i64, Reason> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let start = self.at;
        let mut value: i64 = 0;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            value = value.saturating_mul(10).saturating_add(i64::from(byte - b'0')).min(1 << 32);
            self.at += 1;
        }
        if self.at == start {
            return Err(self.error("expected a digit"));
        }
        Ok(if negative { -value } else { value })
    }

    /// `true` or `false`.
    #[inline]
    pub(super) fn bool(&mut self) -> Option<bool> {
        if self.eat_all(b"true") {
            Some(true)
        } else if self.eat_all(b"false") {
            Some(false)
        } else {
            None
        }
    }

    #[inline]
    pub(super) fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.eat_all(b"null")
    }

    /// Goes past any value, and gives its text.
    pub(super) fn skip(&mut self) -> Result<&'a str, Reason> {
        let start = self.at;
        self.skip_nested(0)?;
        Ok(&self.text[start..self.at])
    }

    fn skip_nested(&mut self, depth: u32) -> Result<(), Reason> {
        match self.peek() {
            Some(b'"') => self.text().map(|_| ()),
            Some(b'{' | b'[') if depth == DEPTH_MAX => Err(format!("nested deeper than {DEPTH_MAX}")),
            Some(b'{') => self.skip_all(b'}', |cursor| {
                cursor.text()?;
                cursor.space();
                cursor.expect(b':')?;
                cursor.space();
                cursor.skip_nested(depth + 1)
            }),
            Some(b'[') => self.skip_all(b']', |cursor| cursor.skip_nested(depth + 1)),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b't' | b'f') if self.bool().is_some() => Ok(()),
            Some(b'n') if self.null() => Ok(()),
            _ => Err(self.error("expected a value")),
        }
    }

    /// An opening mark, items separated by commas, and the closing mark.
    fn skip_all(&mut self, close: u8, item: impl Fn(&mut Self) -> Result<(), Reason>) -> Result<(), Reason> {
        self.at += 1;
        self.space();
        if self.eat(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            self.space();
            if !self.eat(b',') {
                return self.expect(close);
            }
            self.space();
        }
    }
}

impl<'a> Text<'a> {
    /// The string between its quotes, escapes and all.
    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    /// The string, where it stands as it is.
    #[inline]
    pub(super) fn plain(self) -> Option<&'a str> {
        (!self.escapes).then_some(self.raw)
    }

    /// Appends the string without its escapes; it was checked when it was read.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut rest = self.raw.as_bytes();
        while let Some(escape) = rest.iter().position(|byte| *byte == b'\\') {
            out.extend_from_slice(&rest[..escape]);
            let mut bytes = rest[escape..].iter();
            let Ok(character) = unescape(&mut bytes) else { return };
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = bytes.as_slice();
        }
        out.extend_from_slice(rest);
    }
}

impl Number<'_> {
    /// The integer, where it is written as one and fits.
    #[inline]
    pub(super) fn int(&self) -> Option<i64> {
        if !self.integer {
            None
        } else if self.digits <= 18 {
            Some(if self.negative { -(self.mantissa as i64) } else { self.mantissa as i64 })
        } else {
            self.text.parse().ok()
        }
    }

    /// The nearest float, where it is finite.
    #[inline]
    pub(super) fn float(&self) -> Option<f64> {
        // Where mantissa and power are exact, one operation rounds once: the nearest float.
        if self.digits <= 19 && self.mantissa <= 1 << 53 && (-22..=22).contains(&self.exponent) {
            let power = POWERS[self.exponent.unsigned_abs() as usize];
            let mantissa = self.mantissa as f64;
            let size = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return Some(if self.negative { -size } else { size });
        }
        self.text.parse().ok().filter(|value: &f64| value.is_finite())
    }
}

/// `±mantissa / 10^places`, the nearest float: a mantissa with places has 15 digits at most and is exact, as the power is, so that
/// only the division rounds; one without them is rounded once as it becomes a float.
#[inline]
fn decimal(negative: bool, mantissa: u64, places: usize) -> f64 {
    let size = mantissa as i64 as f64 / POWERS[places];
    // Signs cannot be foreseen, so nothing waits for them.
    f64::from_bits(size.to_bits() | u64::from(negative) << 63)
}

/// Whether `text` starts with `bytes`; without a call for those that fit into two words, as most keys do.
#[inline]
fn starts_with(text: &[u8], bytes: &[u8]) -> bool {
    fn same<const N: usize>(text: &[u8], bytes: &[u8], length: usize) -> bool {
        let part = |all: &[u8], at: usize| all.get(at..at + N).and_then(|part| <[u8; N]>::try_from(part).ok());
        part(text, 0) == part(bytes, 0) && part(text, length - N) == part(bytes, length - N)
    }
    match bytes.len() {
        length @ 8..=16 if text.len() >= length => same::<8>(text, bytes, length),
        length @ 4..8 if text.len() >= length => same::<4>(text, bytes, length),
        _ => text.starts_with(bytes),
    }
}

/// Takes in the digits from `at` on, and tells where they end: eight at a time.
#[inline]
fn plain_digits(bytes: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(word) = word(bytes, at) {
        let count = leading_digits(word);
        if count > 0 {
            let more = eight_digits(word << (64 - 8 * count));
            *mantissa = mantissa.wrapping_mul(WHOLE_POWERS[count]).wrapping_add(more);
        }
        at += count;
        if count < 8 {
            return at;
        }
    }
    while let Some(byte @ b'0'..=b'9') = bytes.get(at) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    at
}

/// The eight bytes from `at` on, the first one lowest.
#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok().map(u64::from_le_bytes))
}

/// One in each byte.
const ONES: u64 = u64::MAX / 255;

/// How many leading bytes of a word are digits.
#[inline]
fn leading_digits(word: u64) -> usize {
    (others(word).trailing_zeros() / 8) as usize
}

/// The highest bit of each byte that is no digit. Of what follows one with its highest bit set, nothing is known.
#[inline]
fn others(word: u64) -> u64 {
    let values = word ^ (ONES * 0x30);
    (values.wrapping_add(ONES * 0x76) | values) & (ONES << 7)
}

/// The number that eight digits make, the first one in the lowest byte; zero bytes count as the digit 0. Neighbours are joined three times:
/// to numbers of two digits, of four, and of eight.
#[inline]
fn eight_digits(word: u64) -> u64 {
    let ones = word & (ONES * 0x0f);
    let twos = (ones.wrapping_mul(10 * 256 + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (twos.wrapping_mul(100 * 65_536 + 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 * 4_294_967_296 + 1) >> 32
}

/// A number with a point and no more than six digits around it that is written in the next eight bytes, with what ends it: its digits as a
/// whole number, how many come behind the point, and how many bytes it has. `None` where it is anything else, also where it
/// might not be as JSON wants it.
#[inline]
fn short_decimal(word: u64) -> Option<(u64, usize, usize)> {
    let mut marks = others(word);
    let point = (marks.trailing_zeros() / 8) as usize;
    marks &= marks.wrapping_sub(1);
    let end = (marks.trailing_zeros() / 8) as usize;
    let places = end.wrapping_sub(point + 1);
    if point == 0 || end > 7 || places == 0 {
        return None;
    }
    let at = |place: usize| (word >> (8 * place)) as u8;
    let leads = point > 1 && at(0) == b'0';
    if at(point) != b'.' || leads || matches!(at(end), b'.' | b'e' | b'E') {
        return None;
    }
    // The digits behind the point move up to those before it.
    let before = word & ((1 << (8 * point)) - 1);
    let behind = (word >> (8 * (point + 1))) << (8 * point);
    let digits = (before | behind) << (8 * (9 - end));
    Some((eight_digits(digits), places, end))
}

/// Powers of ten as far as eight digits reach.
static WHOLE_POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Whether the number in these places is as JSON wants it, has few digits, and goes on with nothing that belongs to it.
#[inline]
fn is_plain(bytes: &[u8], start: usize, end: usize) -> bool {
    let leads = bytes[start] == b'0' && matches!(bytes.get(start + 1), Some(b'0'..=b'9'));
    let goes_on = matches!(bytes.get(end), Some(b'e' | b'E' | b'.'));
    // A point may be among them.
    end - start <= 16 && bytes[start] != b'.' && !leads && !goes_on
}

/// The powers of ten that are exact.
static POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// How many leading bytes are neither a quote, a backslash nor a control character: eight at a time.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const HIGHS: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks have eight bytes"));
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        // Borrows only spread upwards, so the lowest mark is a true one.
        let marks = (quote | backslash | control) & HIGHS;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    at + tail.unwrap_or(bytes.len() - at)
}

/// The character of the escape that `bytes` start with; they go on behind it.
fn unescape(bytes: &mut std::slice::Iter<'_, u8>) -> Result<char, &'static str> {
    bytes.next();
    Ok(match bytes.next().ok_or("expected an escape")? {
        quoted @ (b'"' | b'\\' | b'/') => char::from(*quoted),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let first = hex(bytes)?;
            let code = match first {
                0xd800..0xdc00 if bytes.as_slice().starts_with(b"\\u") => {
                    bytes.nth(1);
                    let second = hex(bytes)?;
                    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or("half a surrogate pair")?;
                    0x10000 + ((first - 0xd800) << 10) + low
                }
                other => other,
            };
            char::from_u32(code).ok_or("half a surrogate pair")?
        }
        _ => return Err("no such escape"),
    })
}

fn hex(bytes: &mut std::slice::Iter<'_, u8>) -> Result<u32, &'static str> {
    (0..4).try_fold(0, |code, _| {
        let digit = bytes.next().and_then(|byte| char::from(*byte).to_digit(16));
        digit.map(|digit| code * 16 + digit).ok_or("expected four hexadecimal digits")
    })
}
