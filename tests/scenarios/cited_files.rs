//! A document or comment never cites a file that is not in the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::workspace;

/// How paths of the repository begin. Text in backticks that begins otherwise is a relative path, or no path.
const FOLDERS: [&str; 11] = [
    "channel-store/",
    "chat/",
    "connector/",
    "deploy/",
    "docs/",
    "examples/",
    "runtime/",
    "standalone/",
    "testkit/",
    "tests/",
    "wire/",
];
/// Folders with text of others, or with build results.
const NOT_OURS: [&str; 5] = ["target", "node_modules", ".venv", ".git", "corpus"];

/// All files below a folder whose names end in one of these.
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("our names are UTF-8");
        if path.is_dir() && !NOT_OURS.contains(&name) {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn of_the_workspace(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(workspace(), endings, &mut found);
    found
}

/// The text between each `begin` and the next `end`, without lines between ``` and ```.
fn between<'a>(document: &'a str, begin: &str, end: char) -> Vec<&'a str> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let mut rest = if is_code { "" } else { line };
        while let Some(at) = rest.find(begin) {
            rest = &rest[at + begin.len()..];
            let Some(length) = rest.find(end) else { break };
            found.push(&rest[..length]);
            rest = &rest[length + end.len_utf8()..];
        }
    }
    found
}

/// The anchors of all headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading_that_exist() {
    let mut wrong = Vec::new();
    for document in of_the_workspace(&[".md"]) {
        let text = fs::read_to_string(&document).expect("a document can be read");
        for link in between(&text, "](", ')') {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = document.parent().expect("a file is in a folder");
            let target = match file {
                "" => document.clone(),
                file => folder.join(file),
            };
            let has_anchor = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                anchor.is_empty() || anchors(&text).contains(anchor)
            };
            if !target.exists() || !has_anchor() {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
}

#[test]
fn every_path_of_the_repository_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    for document in of_the_workspace(&[".md"]) {
        let text = fs::read_to_string(&document).expect("a document can be read");
        for path in between(&text, "`", '`') {
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder))
                && !path.contains(|it: char| it.is_whitespace() || "*<>{}…".contains(it))
                && !path.contains("NAME");
            if is_path && !workspace().join(path).exists() {
                wrong.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "paths that do not exist: {wrong:#?}");
}

#[test]
fn every_document_that_the_code_cites_exists() {
    let mut wrong = BTreeSet::new();
    let sources = [
        ".rs", ".lua", ".proto", ".toml", ".js", ".py", ".go", "/run",
    ];
    for source in of_the_workspace(&sources) {
        let Ok(text) = fs::read_to_string(&source) else {
            continue;
        };
        let is_of_path =
            |it: char| it.is_ascii_alphanumeric() || matches!(it, '/' | '.' | '-' | '_');
        for word in text.split(|it: char| !is_of_path(it)) {
            let word = word.trim_end_matches('.').trim_start_matches("../");
            let is_cited = word.ends_with(".md") && word != ".md";
            let beside = source.parent().map(|folder| folder.join(word));
            let exists = workspace().join(word).exists() || beside.is_some_and(|it| it.exists());
            if is_cited && !exists {
                wrong.insert(format!("{}: {word}", source.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "documents that do not exist: {wrong:#?}");
}
