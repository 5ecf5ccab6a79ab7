//! docs/api.md has an example of every call of back ends, and of no other call.

use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use testkit::{readme, workspace};

/// The calls of the contract, like `chat.v1.ChatService/Send`, and whether each of them takes a stream.
fn contract() -> BTreeMap<String, bool> {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("the descriptors");
    let files = set.file.iter().filter(|file| file.package() == "chat.v1");
    let services = files.flat_map(|file| &file.service);
    let calls = services.flat_map(|service| {
        let calls = service.method.iter();
        calls.map(|call| {
            let name = format!("chat.v1.{}/{}", service.name(), call.name());
            (name, call.client_streaming())
        })
    });
    calls.collect()
}

/// The calls that the commands of a document make.
#[derive(Debug, Default)]
struct Shown {
    curl: BTreeSet<String>,
    grpcurl: BTreeSet<String>,
    /// Those in commands that a test runs.
    run: BTreeSet<String>,
}

/// What stands before a call in a word, and the call. A word may be quoted, and a URL may have a query.
fn called(word: &str) -> Option<(&str, &str)> {
    let (before, call) = word.split_at(word.find("chat.v1.")?);
    let is_of_name = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '/');
    let end = call.find(|it| !is_of_name(it)).unwrap_or(call.len());
    Some((before, &call[..end])).filter(|_| call.contains('/'))
}

fn shown(document: &str) -> Shown {
    let mut shown = Shown::default();
    for fence in readme::fences(document) {
        if !fence.info.starts_with("sh") {
            continue;
        }
        for word in fence.lines.iter().flat_map(|line| line.split_whitespace()) {
            let Some((before, call)) = called(word) else {
                continue;
            };
            let (by_curl, call) = (before.contains("http"), call.to_owned());
            if fence.info.starts_with("sh test") {
                shown.run.insert(call.clone());
            }
            let shown = if by_curl {
                &mut shown.curl
            } else {
                &mut shown.grpcurl
            };
            shown.insert(call);
        }
    }
    shown
}

#[test]
fn every_call_has_an_example_in_curl_and_in_grpcurl_and_a_test_runs_one() {
    let document = fs::read_to_string(workspace().join("docs/api.md")).expect("docs/api.md");
    let shown = shown(&document);
    let contract = contract();
    assert!(contract.len() >= 20, "{contract:?}");
    let mut wrong = Vec::new();
    for (call, &takes_stream) in &contract {
        if !shown.grpcurl.contains(call) {
            wrong.push(format!("{call} has no example in grpcurl"));
        }
        // Over HTTP, a call cannot take a stream.
        if !takes_stream && !shown.curl.contains(call) {
            wrong.push(format!("{call} has no example in curl"));
        }
        if !shown.run.contains(call) {
            wrong.push(format!("{call} has no example in a block with `sh test`"));
        }
    }
    let is_unknown = |call: &&String| !contract.contains_key(*call);
    for call in shown.curl.union(&shown.grpcurl).filter(is_unknown) {
        wrong.push(format!("{call} is not in the contract"));
    }
    assert!(wrong.is_empty(), "docs/api.md: {wrong:#?}");
}
