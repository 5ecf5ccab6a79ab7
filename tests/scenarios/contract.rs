//! The contracts in `proto/` stay compatible with generated clients and stored requests. `proto/contract.binpb` is the
//! version that was accepted last, and [buf](https://buf.build) finds what a change would break.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::workspace;

/// The command that accepts a compatible change.
const ACCEPT: &str = "tests/clients/node_modules/.bin/buf build proto --as-file-descriptor-set --exclude-source-info \
                      -o proto/contract.binpb";

/// Runs buf in the project's folder.
fn buf(arguments: &[&str]) -> Output {
    let program = workspace().join("tests/clients/node_modules/.bin/buf");
    assert!(
        program.exists(),
        "{} is missing: run `npm ci` in tests/clients, or ./tests/run, which does",
        program.display()
    );
    let run = Command::new(program)
        .args(arguments)
        .current_dir(workspace())
        .output();
    run.expect("buf runs")
}

/// What buf complains about; empty if it finds nothing.
fn complaints(arguments: &[&str]) -> String {
    let output = buf(arguments);
    if output.status.success() {
        return String::new();
    }
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn breaks(contract: &str) -> String {
    complaints(&["breaking", contract, "--against", "proto/contract.binpb"])
}

#[test]
fn no_change_breaks_the_users_of_the_contracts() {
    let found = breaks("proto");
    assert!(
        found.is_empty(),
        "the contracts have changed in a way that breaks their users:\n{found}\
         Keep names, numbers and types, and add new fields, calls and values instead."
    );
    // An accepted change must not be withdrawn later either, so `contract.binpb` has to be up to date.
    let folder = tempfile::tempdir().expect("a folder");
    let now = folder.path().join("contract.binpb");
    let now = now.to_str().expect("a path in UTF-8");
    let built = complaints(&[
        "build",
        "proto",
        "--as-file-descriptor-set",
        "--exclude-source-info",
        "-o",
        now,
    ]);
    assert!(built.is_empty(), "{built}");
    let accepted = fs::read(workspace().join("proto/contract.binpb")).expect("it is there");
    assert!(
        fs::read(now).expect("it was built") == accepted,
        "the contracts have changed, and the change breaks nobody. To accept it, run:\n  {ACCEPT}"
    );
}

/// Checks the check itself.
#[test]
fn a_change_that_breaks_users_of_the_contracts_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&workspace().join("proto"), folder.path());
    let contract = folder.path().to_str().expect("a path in UTF-8");
    assert_eq!(breaks(contract), "", "the copy is the same");
    for (file, before, after) in [
        (
            "chat/v1/chat_service.proto",
            "string route = 4;",
            "string route = 9;",
        ),
        (
            "connector/v1/connector.proto",
            "bool fence = 6;",
            "string fence = 6;",
        ),
        (
            "chat/v1/channel.proto",
            "CONTINUITY_TRIMMED",
            "CONTINUITY_GONE",
        ),
    ] {
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).expect("it is there");
        assert!(text.contains(before), "{file} has no {before:?}");
        fs::write(&path, text.replace(before, after)).expect("written");
        let found = breaks(contract);
        assert!(found.contains(file), "{before} became {after}: {found:?}");
        fs::write(&path, text).expect("written");
    }
}

#[test]
fn the_contracts_follow_the_usual_style() {
    assert_eq!(complaints(&["lint", "proto"]), "");
}

/// Copies the .proto files and the settings of buf.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            fs::create_dir(to.join(&name)).expect("a folder");
            copy(&path, &to.join(&name));
        } else if path
            .extension()
            .is_some_and(|it| it == "proto" || it == "yaml")
        {
            fs::copy(&path, to.join(&name)).expect("copied");
        }
    }
}
