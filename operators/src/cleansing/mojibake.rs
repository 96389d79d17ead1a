//! Text whose UTF-8 was read as Windows-1252 or Latin-1: `Ã©` for `é`.

/// How often a text can have been misread in turn.
const TURNS_MAX: usize = 3;

/// What Windows-1252 has at 0x80 to 0x9f; U+FFFD where it has nothing.
const HIGH: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž', '\u{fffd}', '\u{fffd}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}', 'ž', 'Ÿ',
];

/// Puts the text that was meant into `out`, and says whether there was one: all of `text`'s characters must be bytes of
/// the wrong encoding, and these bytes UTF-8.
pub(super) fn repair(text: &str, bytes: &mut Vec<u8>, out: &mut String) -> bool {
    let mut repaired = false;
    for _ in 0..TURNS_MAX {
        let misread = if repaired { out.as_str() } else { text };
        if !write_bytes(misread, bytes) {
            break;
        }
        let Ok(meant) = std::str::from_utf8(bytes) else { break };
        out.clear();
        out.push_str(meant);
        repaired = true;
    }
    repaired
}

/// The bytes that were read as these characters; false where there are none, or nothing was to be misread.
fn write_bytes(text: &str, bytes: &mut Vec<u8>) -> bool {
    // Most text ends here: its first character beyond ASCII does not begin a sequence of UTF-8.
    let first = text.chars().find(|c| !c.is_ascii()).and_then(byte);
    if !first.is_some_and(|byte| (0xc2..=0xf4).contains(&byte)) {
        return false;
    }
    bytes.clear();
    for c in text.chars() {
        match byte(c) {
            Some(byte) => bytes.push(byte),
            None => return false,
        }
    }
    true
}

fn byte(c: char) -> Option<u8> {
    if let Ok(byte) = u8::try_from(u32::from(c)) {
        return Some(byte);
    }
    HIGH.iter().position(|high| *high == c && c != '\u{fffd}').map(|place| 0x80 + place as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Option<String> {
        let mut out = String::new();
        repair(text, &mut Vec::new(), &mut out).then_some(out)
    }

    /// As a reader with the wrong encoding sees it.
    fn misread(text: &str) -> String {
        let c = |byte: u8| match byte {
            0x80..=0x9f if HIGH[usize::from(byte - 0x80)] != '\u{fffd}' => HIGH[usize::from(byte - 0x80)],
            byte => char::from(byte),
        };
        text.bytes().map(c).collect()
    }

    #[test]
    fn what_was_misread_is_read_again() {
        assert_eq!(misread("é–"), "Ã©â€“");
        for text in ["Müller", "São Paulo", "à", "naïve – “quoted” €5", "Ελλάδα", "日本", "😀 ok", "Ý"]
        {
            let latin: String = text.bytes().map(char::from).collect();
            for bad in [misread(text), misread(&misread(text)), latin] {
                assert_eq!(meant(&bad).as_deref(), Some(text), "{bad}");
            }
        }
    }

    #[test]
    fn what_was_well_stays() {
        for text in ["", "plain", "Müller", "São Paulo", "É", "日本", "Ã", "café – crème", "Ã© – 日本", "Â", "ÃO"]
        {
            assert_eq!(meant(text), None, "{text}");
        }
    }
}
