//! A line of a `-save` tool, word by word.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The words of one line, with a place in them.
pub(super) struct Words<'a> {
    line: &'a str,
    /// Where each word begins and ends.
    words: Vec<(usize, usize)>,
    at: usize,
}

impl<'a> Words<'a> {
    /// Words are separated by one space each; a word that begins with a double quote ends with one (`xtables_save_string`). `None`
    /// if the line is otherwise.
    pub fn split(line: &'a str) -> Option<Self> {
        let bytes = line.as_bytes();
        let mut words = Vec::with_capacity(16);
        let mut at = 0;
        loop {
            let start = at;
            if bytes.get(at) == Some(&b'"') {
                at = end_of_quoted(bytes, at)?;
            } else {
                at += bytes[at..].iter().take_while(|byte| **byte != b' ').count();
            }
            words.push((start, at));
            match bytes.get(at) {
                _ if start == at => return None,
                None => return Some(Words { line, words, at: 0 }),
                Some(b' ') => at += 1,
                Some(_) => return None,
            }
        }
    }

    pub fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    pub fn next_if(&mut self, is: impl FnOnce(&str) -> bool) -> Option<&'a str> {
        is(self.peek()?).then(|| self.next()).flatten()
    }

    pub fn peek(&self) -> Option<&'a str> {
        let (start, end) = *self.words.get(self.at)?;
        Some(&self.line[start..end])
    }

    /// The number of the next word.
    pub fn place(&self) -> usize {
        self.at
    }

    pub fn return_to(&mut self, place: usize) {
        self.at = place;
    }

    /// Goes on to where the next module or target begins.
    pub fn skip_to_next_part(&mut self) {
        while self.next_if(|word| !matches!(word, "-m" | "-j" | "-g")).is_some() {}
    }

    pub fn skip_to_end(&mut self) {
        self.at = self.words.len();
    }

    /// The line from one place to the present one, without the space behind it.
    pub fn since(&self, place: usize) -> &'a str {
        match (self.words.get(place), self.words[..self.at].last()) {
            (Some((start, _)), Some((_, end))) if start < end => &self.line[*start..*end],
            _ => "",
        }
    }
}

/// Behind the closing quote.
fn end_of_quoted(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// What a word says.
pub(super) fn unquoted(word: &str) -> Cow<'_, str> {
    let Some(inner) = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return word.into() };
    if !inner.contains('\\') {
        return inner.into();
    }
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text.into()
}

/// A string as `xtables_save_string` writes it.
pub(super) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !self.0.is_empty() && self.0.bytes().all(is_plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for letter in self.0.chars() {
            if matches!(letter, '"' | '\\' | '\'') {
                f.write_char('\\')?;
            }
            f.write_char(letter)?;
        }
        f.write_char('"')
    }
}

/// The lines of an output: a line end between double quotes is a part of the string.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = end_of_line(rest.as_bytes());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

fn end_of_line(bytes: &[u8]) -> usize {
    // What the tools say of themselves quotes as it pleases.
    let quotes = bytes.first() != Some(&b'#');
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => return at,
            b'"' if quotes && at > 0 && bytes[at - 1] == b' ' => match end_of_quoted(bytes, at) {
                Some(end) => at = end,
                // Never closed: a quote that is a part of a name.
                None => at += 1,
            },
            _ => at += 1,
        }
    }
    bytes.len()
}
