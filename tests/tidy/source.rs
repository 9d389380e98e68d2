//! A Rust file as tidy sees it: the same text twice, once with everything but code blanked, once with everything but
//! comments blanked, so that no rule is fooled by a string or a comment. Blanking keeps every line and every column, so
//! positions in one text are positions in all.
//!
//! The lexer knows line and nested block comments, plain, byte, C and raw strings, and characters as against lifetimes.
//! It does not parse: macros and generics are just text. Called by `rules` and `rooms`.

/// One file.
#[derive(Debug)]
pub struct Source {
    /// Path below the repository root, with `/`.
    pub path: String,
    /// The text as it stands.
    pub raw: String,
    /// Strings, characters and comments blanked.
    pub code: String,
    /// All but comments (with their `//`) blanked.
    pub comments: String,
    /// For each line, whether it belongs to test code.
    test_lines: Vec<bool>,
}

impl Source {
    /// Splits `text`.
    pub fn new(path: &str, text: &str) -> Source {
        let kinds = classify(text);
        let code = keep(text, &kinds, Kind::Code);
        let comments = keep(text, &kinds, Kind::Comment);
        let whole_file = is_test_file(path);
        let mut test_lines = vec![whole_file; code.lines().count() + 1];
        if !whole_file {
            mark_test_items(&code, &mut test_lines);
        }
        Source { path: path.to_owned(), raw: text.to_owned(), code, comments, test_lines }
    }

    /// Line of a byte offset, counted from 1.
    pub fn line_of(&self, offset: usize) -> usize {
        1 + self.raw[..offset].bytes().filter(|&b| b == b'\n').count()
    }

    /// Whether a line is compiled for tests only: below `#[cfg(test)]`, or in a file whose name says so.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }

    /// Offsets at which `word` stands in the code as a whole word.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        self.code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + word.len()).copied();
            !before.is_some_and(is_word_byte) && !after.is_some_and(is_word_byte)
        })
    }
}

/// Whether a byte may be part of an identifier. Non-ASCII counts: no rule looks for such names.
pub fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Offset just past the bracket that closes the one at `open`; the end of the text if none does.
pub fn past_closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Code,
    Comment,
    Literal,
}

fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with("tests/") || path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
}

/// Marks the item below each `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn mark_test_items(code: &str, test_lines: &mut [bool]) {
    for (at, _) in code.match_indices("#[cfg(") {
        let end = past_closing(code, at + 1);
        let condition: String = code[at..end].split_whitespace().collect();
        if !condition.starts_with("#[cfg(test)") && !condition.starts_with("#[cfg(all(test,") {
            continue;
        }
        let stop = past_item(code, end);
        let first = code[..at].matches('\n').count();
        let last = code[..stop].matches('\n').count();
        test_lines[first..=last].fill(true);
    }
}

/// Offset past the item that begins at `from`: past its body, or its `;`.
fn past_item(code: &str, from: usize) -> usize {
    let bytes = code.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => return past_closing(code, at),
            b';' => return at + 1,
            b'(' | b'[' => at = past_closing(code, at),
            _ => at += 1,
        }
    }
    code.len()
}

/// The text with every byte of another kind turned to a blank; line ends stay.
fn keep(text: &str, kinds: &[Kind], kept: Kind) -> String {
    let blanked = text.bytes().zip(kinds).map(|(byte, &kind)| if kind == kept || byte == b'\n' { byte } else { b' ' });
    // Kinds change only at ASCII bytes, so what is kept is whole characters.
    String::from_utf8(blanked.collect()).expect("literals and comments begin and end at ASCII bytes")
}

/// The kind of each byte.
fn classify(text: &str) -> Vec<Kind> {
    let bytes = text.as_bytes();
    let mut kinds = Vec::with_capacity(bytes.len());
    while kinds.len() < bytes.len() {
        let at = kinds.len();
        let (kind, end) = token(bytes, at);
        kinds.resize(end.clamp(at + 1, bytes.len()), kind);
    }
    kinds
}

/// Kind and end of the token at `at`.
fn token(bytes: &[u8], at: usize) -> (Kind, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return (Kind::Comment, at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return (Kind::Comment, at + block_comment_len(rest));
    }
    if rest[0] == b'"' {
        return (Kind::Literal, at + 1 + quoted_len(&rest[1..], b'"'));
    }
    if rest[0] == b'\'' {
        return match char_literal_len(rest) {
            Some(len) => (Kind::Literal, at + len),
            None => (Kind::Code, at + 1),
        };
    }
    if is_word_byte(rest[0]) {
        let len = rest.iter().position(|&b| !is_word_byte(b)).unwrap_or(rest.len());
        return prefixed_literal(rest, len).map_or((Kind::Code, at + len), |end| (Kind::Literal, at + end));
    }
    (Kind::Code, at + 1)
}

/// Length of a literal with a prefix (`b"…"`, `r#"…"#`, `br"…"`, `c"…"`, `b'…'`), when the word of `len` bytes is one.
fn prefixed_literal(rest: &[u8], len: usize) -> Option<usize> {
    let (prefix, tail) = rest.split_at(len);
    match prefix {
        b"r" | b"br" | b"cr" => {
            let hashes = tail.iter().take_while(|&&b| b == b'#').count();
            (tail.get(hashes) == Some(&b'"')).then(|| len + hashes + 1 + raw_len(&tail[hashes + 1..], hashes))
        }
        b"b" | b"c" if tail.first() == Some(&b'"') => Some(len + 1 + quoted_len(&tail[1..], b'"')),
        b"b" if tail.first() == Some(&b'\'') => char_literal_len(tail).map(|literal| len + literal),
        _ => None,
    }
}

/// Length up to and with the closing quote, after an opening one.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length up to and with the closing quote and hashes of a raw string, after the opening quote.
fn raw_len(rest: &[u8], hashes: usize) -> usize {
    let closes =
        |at: usize| rest[at] == b'"' && rest[at + 1..].iter().take(hashes).filter(|&&b| b == b'#').count() == hashes;
    (0..rest.len()).find(|&at| closes(at)).map_or(rest.len(), |at| at + 1 + hashes)
}

/// Length of the character literal at an apostrophe; none if it is a lifetime or a label.
fn char_literal_len(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'\\' => Some(1 + quoted_len(&rest[1..], b'\'')),
        first => {
            let width = match first {
                0..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            (rest.get(1 + width) == Some(&b'\'')).then_some(2 + width)
        }
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a text, blanks squeezed, after a check that nothing has moved.
    fn code(text: &str) -> String {
        let source = Source::new("src/x/a.rs", text);
        assert_eq!((source.code.len(), source.comments.len()), (text.len(), text.len()), "{text}");
        let kept = source.code.bytes().zip(text.bytes()).all(|(code, raw)| code == raw || code == b' ' && raw != b'\n');
        assert!(kept, "{text}");
        source.code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn strings_and_comments_are_blanked_in_place() {
        assert_eq!(code("a(\"b\\\"c\"); // d"), "a( );");
        assert_eq!(code("a /* b /* c */ d */ e"), "a e");
        assert_eq!(code("r#\"a\" b\"# c r\"d\\\" e"), "c e");
        assert_eq!(code("b\"a\" c\"b\" br##\"\"#\"## x"), "x");
        assert_eq!(code("\"two\nlines // \" x"), "x");
    }

    #[test]
    fn characters_are_not_lifetimes() {
        assert_eq!(code("'a' &'a str '\\'' '\"' b'\"' 'é' '\\u{1F600}' 'x: loop"), "&'a str 'x: loop");
        assert_eq!(code("f::<'_>('x')"), "f::<'_>( )");
    }

    #[test]
    fn raw_identifiers_stay_code() {
        assert_eq!(code("r#type = br; r = 1"), "r#type = br; r = 1");
    }

    #[test]
    fn comments_are_kept_apart() {
        let source = Source::new("src/x/a.rs", "let a = \"// no\"; // yes");
        assert_eq!(source.comments.trim(), "// yes");
        assert_eq!(source.comments.len(), source.raw.len());
    }

    #[test]
    fn unfinished_tokens_end_with_the_file() {
        for text in ["\"abc", "r#\"abc\"", "/* abc /* */", "'\\", "b\"\\"] {
            assert_eq!(Source::new("src/x/a.rs", text).code.trim(), "", "{text}");
        }
    }

    #[test]
    fn test_code_is_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n#[cfg(all(test, unix))]\nuse d;\nfn e() {}\n";
        let source = Source::new("src/x/a.rs", text);
        let marked: Vec<usize> = (1..=9).filter(|&line| source.is_test(line)).collect();
        assert_eq!(marked, [2, 3, 4, 5, 7, 8]);
        assert!(Source::new("src/x/a_tests.rs", "fn a() {}").is_test(1));
        assert!(!Source::new("src/x/a.rs", "#[cfg(not(test))]\nfn a() {}").is_test(2));
    }

    #[test]
    fn words_are_whole() {
        let source = Source::new("src/x/a.rs", "unsafe unsafe_x xunsafe (unsafe)");
        assert_eq!(source.words("unsafe").collect::<Vec<_>>(), [0, 25]);
    }
}
