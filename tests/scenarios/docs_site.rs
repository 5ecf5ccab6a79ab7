//! The documents as a site: every page is in its summary, and each link of the site leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::workspace;

/// All files below a folder with this ending.
fn files(folder: &Path, ending: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_str().is_some_and(|it| it.ends_with(ending)) {
            found.insert(path);
        }
    }
}

/// What stands between each `begin` and the next quotation mark.
fn quoted<'a>(text: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = text.split(begin).skip(1);
    parts.filter_map(|rest| rest.split_once('"').map(|(value, _)| value))
}

/// The path without `..`. Nothing need be there.
fn simplified(path: &Path) -> PathBuf {
    let mut simple = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(simple.pop()),
            part => simple.push(part),
        }
    }
    simple
}

#[test]
fn every_page_is_in_the_summary_once() {
    let docs = workspace().join("docs");
    let mut pages = BTreeSet::new();
    files(&docs, ".md", &mut pages);
    pages.remove(&workspace().join("docs/SUMMARY.md"));
    let summary = fs::read_to_string(workspace().join("docs/SUMMARY.md")).expect("a summary");
    let mut listed = BTreeMap::<_, u32>::new();
    for (_, rest) in summary.lines().filter_map(|line| line.split_once("](")) {
        let page = rest.trim_end_matches(')');
        *listed.entry(simplified(&docs.join(page))).or_default() += 1;
    }
    for (page, times) in &listed {
        assert!(page.is_file(), "{} is not there", page.display());
        assert_eq!(*times, 1, "{}", page.display());
    }
    let missing: Vec<_> = pages
        .iter()
        .filter(|page| !listed.contains_key(*page))
        .collect();
    assert!(
        missing.is_empty(),
        "add them to docs/SUMMARY.md: {missing:?}"
    );
}

#[test]
#[ignore = "needs mdbook: ./tests/run --long"]
fn the_site_is_built_and_each_of_its_links_leads_somewhere() {
    let folder = tempfile::tempdir().expect("a directory");
    let installed = workspace().join("tests/deploy/.venv/bin/mdbook");
    let mut command = Command::new(workspace().join("docs/build-site"));
    if installed.exists() {
        command.env("MDBOOK", installed);
    }
    let output = command
        .arg(folder.path().join("site"))
        .output()
        .expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );

    let html = folder.path().join("site/html");
    let mut found = BTreeSet::new();
    files(&html, ".html", &mut found);
    // It shows all pages one after the other, with links that are made for their own places.
    found.remove(&html.join("print.html"));
    // Its links begin at the root of a server.
    found.remove(&html.join("404.html"));
    let texts: BTreeMap<_, _> = found
        .iter()
        .map(|path| (path, fs::read_to_string(path).expect("a page")))
        .collect();
    assert!(texts.len() >= 25, "{} pages", texts.len());
    let ids: BTreeMap<_, BTreeSet<_>> = texts
        .iter()
        .map(|(path, text)| (*path, quoted(text, " id=\"").collect()))
        .collect();
    let mut wrong = Vec::new();
    for (page, text) in &texts {
        for link in quoted(text, " href=\"") {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.split('/').next().is_some_and(|it| it.contains(':')) {
                continue;
            }
            let target = match file {
                "" => (*page).clone(),
                file => simplified(&page.parent().expect("a folder").join(file)),
            };
            let has_anchor =
                || anchor.is_empty() || ids.get(&target).is_none_or(|it| it.contains(anchor));
            if !target.is_file() || !has_anchor() {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
}
