//! Reads manifests: files, folders, standard input; several documents each. One bad document spoils no other.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use yaml::{Document, Malformed, Node};

use super::{Manifest, Problem};

/// Where manifests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder of `.yaml`, `.yml` and `.json` files (not below it), read in the order of their names.
    Path(PathBuf),
    Stdin,
    /// The three web servers behind a load balancer that a lab runs by default.
    BuiltIn,
}

impl Source {
    /// What a command's `-f` arguments stand for: `-` is standard input, none at all what a lab runs by default.
    pub fn of(arguments: &[PathBuf]) -> Vec<Self> {
        if arguments.is_empty() {
            return vec![Self::BuiltIn];
        }
        let source = |argument: &PathBuf| match argument.as_os_str() == "-" {
            true => Self::Stdin,
            false => Self::Path(argument.clone()),
        };
        arguments.iter().map(source).collect()
    }
}

/// A source that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("read manifests from {path}")]
pub struct Error {
    pub path: String,
    #[source]
    pub source: io::Error,
}

/// The name that documents of the built-in manifest are reported under.
const BUILT_IN: &str = "(built-in) nginx.yaml";

/// Reads every source: what parses as an object, and what does not.
///
/// # Errors
/// A source cannot be opened.
pub fn read(sources: &[Source]) -> Result<(Vec<Manifest>, Vec<Problem>), Error> {
    let (mut manifests, mut problems) = (vec![], vec![]);
    for source in sources {
        for (name, text) in texts(source)? {
            parse(&name, &text, &mut manifests, &mut problems);
        }
    }
    Ok((manifests, problems))
}

fn texts(source: &Source) -> Result<Vec<(String, String)>, Error> {
    match source {
        Source::BuiltIn => {
            Ok(vec![(BUILT_IN.to_owned(), include_str!("../../manifests/nginx.yaml").to_owned())])
        }
        Source::Stdin => {
            let mut text = String::new();
            let failed = |source| Error { path: "standard input".to_owned(), source };
            io::stdin().read_to_string(&mut text).map_err(failed)?;
            Ok(vec![("-".to_owned(), text)])
        }
        Source::Path(path) => {
            let failed = |path: &Path, source| Error { path: path.display().to_string(), source };
            let files = files(path).map_err(|error| failed(path, error))?;
            let text = |file: PathBuf| match fs::read_to_string(&file) {
                Ok(text) => Ok((file.display().to_string(), text)),
                Err(error) => Err(failed(&file, error)),
            };
            files.into_iter().map(text).collect()
        }
    }
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files =
        fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    let known = |file: &PathBuf| {
        let extension = file.extension().and_then(|e| e.to_str());
        extension.is_some_and(|e| matches!(e, "yaml" | "yml" | "json")) && file.is_file()
    };
    files.retain(known);
    files.sort();
    if files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no .yaml, .yml or .json file in it"));
    }
    Ok(files)
}

pub(super) fn parse(file: &str, text: &str, manifests: &mut Vec<Manifest>, problems: &mut Vec<Problem>) {
    for document in yaml::read(text) {
        match document {
            Ok(Document { offset, root }) => objects(file, offset, root, manifests, problems),
            Err(Malformed { line, message }) => {
                problems.push(Problem { file: file.to_owned(), line, object: None, field: None, message });
            }
        }
    }
}

/// The object of a document, or those of its `List`.
fn objects(file: &str, offset: u64, root: Node, manifests: &mut Vec<Manifest>, problems: &mut Vec<Problem>) {
    let is_list = root.get("kind").and_then(Node::text) == Some("List");
    if is_list && let Some(items) = root.get("items") {
        for item in items.items() {
            objects(file, offset, item.clone(), manifests, problems);
        }
        return;
    }
    match Manifest::new(file, offset, root) {
        Ok(manifest) => manifests.push(manifest),
        Err(problem) => problems.push(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Vec<Manifest>, Vec<Problem>) {
        let (mut manifests, mut problems) = (vec![], vec![]);
        parse("svc.yaml", text, &mut manifests, &mut problems);
        (manifests, problems)
    }

    #[test]
    fn a_broken_document_is_reported_and_hides_no_other() {
        let text = "kind: A\napiVersion: v1\nmetadata: {name: a}\n---\nkind: [\n---\n# only a comment\n---\n\
                    kind: B\napiVersion: v1\nmetadata:\n  name: b\n";
        let (manifests, problems) = read_text(text);
        assert_eq!(manifests.iter().map(|m| m.object()).collect::<Vec<_>>(), ["A a", "B b"]);
        assert_eq!(manifests[1].line("metadata.name"), 12);
        assert_eq!(problems.len(), 1);
        assert!((5..=6).contains(&problems[0].line), "{}", problems[0]);
    }

    #[test]
    fn what_makes_no_object_is_named_by_line_and_field() {
        for (text, want) in [
            ("apiVersion: v1\nmetadata: {name: a}", "svc.yaml:1: kind: Required value"),
            ("kind: Service\nmetadata: {name: a}", "svc.yaml:1: Service a: apiVersion: Required value"),
            (
                "kind: Service\napiVersion: v1\nmetadata:\n  namespace: ns",
                "svc.yaml:3: Service ns/: metadata.name: Required value",
            ),
            ("\n\njust text", "svc.yaml:3: want an object, found a scalar"),
            ("- a\n- b", "svc.yaml:1: want an object, found a list"),
        ] {
            let (manifests, problems) = read_text(text);
            assert!(manifests.is_empty(), "{text}");
            assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [want], "{text}");
        }
    }

    #[test]
    fn a_duplicate_key_is_an_error_at_its_line() {
        let (_, problems) = read_text("kind: A\napiVersion: v1\nkind: B\n");
        assert_eq!((problems.len(), problems[0].line), (1, 3));
        assert!(problems[0].message.contains("kind"), "{}", problems[0]);
    }

    #[test]
    fn lists_are_their_items() {
        let text =
            "kind: List\napiVersion: v1\nitems:\n- kind: A\n  apiVersion: v1\n  metadata:\n    name: a\n";
        let (manifests, _) = read_text(text);
        assert_eq!(manifests[0].line("metadata.name"), 7);
    }

    #[test]
    fn the_built_in_manifest_is_sound() {
        let (manifests, problems) = read(&[Source::BuiltIn]).expect("built in");
        assert_eq!(problems, []);
        let objects: Vec<_> = manifests.iter().map(Manifest::object).collect();
        assert_eq!(
            objects,
            ["Namespace netflow-test", "Deployment netflow-test/nginx", "Service netflow-test/nginx"]
        );
    }
}
