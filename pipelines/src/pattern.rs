//! Patterns of text: `*` stands for any text, `?` for any character, everything else for itself.

/// Whether all of `text` is as `pattern` says.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut next) = (0, 0);
    // Where the last `*` is, and what it has taken up to.
    let mut star: Option<(usize, usize)> = None;
    while next < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, next));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[next] => (at, next) = (at + 1, next + 1),
            _ => {
                // The last `*` takes one more; an earlier one could not do better.
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, next) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|left| *left == '*')
}

/// Whether a text stands for more than itself.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*b*", "abc", true),
            ("*ab", "aab", true),
            ("*aab*", "aaaab!", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("a**", "a", true),
            ("[x]*", "[x]y", true),
            ("*[*]*", "a[b]c", true),
            ("column `x`*", "column `x`: expected", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(is_pattern("a*") && is_pattern("?") && !is_pattern("clean/0/require"));
    }
}
