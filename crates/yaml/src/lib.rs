//! YAML documents as trees that know the line of everything in them. Pure: the caller reads the files.
//!
//! Never knows what an object means.

mod node;

pub use node::{Node, Value};

/// A document of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Lines of the stream before it.
    pub offset: u64,
    pub root: Node,
}

/// Why a document is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Of the stream, from 1.
    pub line: u64,
    pub message: String,
}

/// The documents of a stream, without those that are empty.
///
/// A line that begins with `---` separates documents wherever it stands (YAML 1.2, c-forbidden), so that a document with a
/// mistake in it hides none that follows.
pub fn read(text: &str) -> impl Iterator<Item = Result<Document, Malformed>> {
    texts(text).into_iter().filter_map(|(offset, text)| match serde_saphyr::from_str::<Node>(text) {
        Ok(root) if root.value == Value::Scalar(serde_json::Value::Null) => None,
        Ok(root) => Some(Ok(Document { offset, root })),
        Err(error) => Some(Err(Malformed {
            line: offset + error.location().map_or(1, |location| location.line()),
            message: sentence(&error.without_snippet().to_string()),
        })),
    })
}

/// Each with the number of lines before it.
fn texts(text: &str) -> Vec<(u64, &str)> {
    let mut texts = vec![];
    let (mut start, mut first, mut position) = (0, 0, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let end = position + line.len();
        let separates = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']));
        if separates {
            texts.push((first, &text[start..position]));
            (start, first) = (end, number);
        }
        position = end;
    }
    texts.push((first, &text[start..]));
    texts.retain(|(_, text)| !is_blank(text));
    texts
}

fn is_blank(document: &str) -> bool {
    document.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "...")
}

/// The parser's message without its position: that counts within the document.
fn sentence(message: &str) -> String {
    let first = message.lines().next().unwrap_or(message);
    first.split_once(" at line ").map_or(first, |(text, _)| text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_is_told_by_its_line_and_hides_no_other() {
        let text = "kind: A\n---\nkind: [\n---\n# only a comment\n---\n~\n--- \nkind: B\n";
        let all: Vec<_> = read(text).collect();
        let [Ok(a), Err(broken), Ok(b)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((a.offset, a.root.line, b.offset, b.root.line), (0, 1, 8, 1));
        assert!((3..=4).contains(&broken.line) && !broken.message.contains(" at line "), "{broken:?}");
    }
}
