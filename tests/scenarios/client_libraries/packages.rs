//! The packages of the client libraries, in folders that know nothing of this repository, and the tests that the libraries bring.

use serde_json::json;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::json::Client;
use testkit::pomelo::{LOGIN, SEND};
use testkit::process::Process;
use testkit::readme::fences;
use testkit::service::Standalone;
use testkit::{python, workspace};

/// Installing packages takes a while on a busy machine.
const INSTALLING: Duration = Duration::from_secs(300);

/// Runs a command to its end, which must be a success. Returns what it has printed.
async fn run(name: &str, command: &mut Command) -> String {
    let mut process = Process::spawn(name, command);
    let status = process.ended_within(INSTALLING).await;
    let output = process.lines().join("\n");
    assert!(status.success(), "{name}: {output}");
    output
}

/// The first example of a library's README, for this server.
fn example(library: &str, language: &str, server: &Standalone) -> String {
    let readme = workspace().join("clients").join(library).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("a README");
    let fences = fences(&readme);
    let example = fences.iter().find(|it| it.info == language);
    let example = example.expect("an example").lines.join("\n");
    let documented = "127.0.0.1:3010";
    assert!(example.contains(documented), "{example}");
    example.replace(documented, &server.address().to_string())
}

/// A copy of the library in JavaScript. To build a package or to test the library makes `dist` anew, which other tests are using.
async fn copy_of_javascript() -> (TempDir, PathBuf) {
    let copy = TempDir::new().expect("a folder");
    let script = "mkdir -p clients/js && cp \"$1\"/LICENSE-* . && cd clients/js \
        && cp -r \"$1\"/clients/js/{src,tests,*.mjs,*.json,README.md} . && ln -s \"$1\"/clients/js/node_modules .";
    let root = workspace().to_str().expect("a path");
    let arguments = ["-euc", script, "copy", root];
    run("copy", &mut in_folder(copy.path(), "bash", &arguments)).await;
    let library = copy.path().join("clients/js");
    (copy, library)
}

/// Runs an example until its own message has come back to it.
async fn is_told_its_own_message(name: &str, command: &mut Command) {
    let mut process = Process::spawn(name, command);
    process
        .until_line("its own message", |line| {
            line.ends_with("hello").then_some(())
        })
        .await;
}

fn in_folder(folder: &Path, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments);
    command
}

/// The only file in a folder with this end of its name.
fn only(folder: &Path, end: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("a folder");
    let files = files.map(|it| it.expect("an entry").path());
    let mut files = files.filter(|it| it.to_string_lossy().ends_with(end));
    let file = files.next().expect("a package");
    assert_eq!(files.next(), None, "one package");
    file
}

#[tokio::test]
async fn the_library_in_javascript_installs_into_an_empty_folder_and_its_example_runs() {
    let server = Standalone::start().await;
    let folder = TempDir::new().expect("a folder");
    let (_copy, library) = copy_of_javascript().await;
    let destination = folder.path().to_str().expect("a path");
    let pack = ["pack", "--pack-destination", destination];
    run("npm pack", &mut in_folder(&library, "npm", &pack)).await;
    let package = only(folder.path(), ".tgz");
    let app = folder.path().join("app");
    std::fs::create_dir(&app).expect("made");
    let package = package.to_str().expect("a path");
    // Node before version 22 has no WebSocket.
    let install = ["install", "--no-audit", "--no-fund", package, "ws@8.23.0"];
    run("npm install", &mut in_folder(&app, "npm", &install)).await;

    let example = example("js", "js", &server);
    let socket = "globalThis.WebSocket ??= (await import('ws')).default;\n";
    std::fs::write(app.join("socket.mjs"), socket).expect("written");
    std::fs::write(app.join("hello.mjs"), &example).expect("written");
    let run_it = ["--import", "./socket.mjs", "hello.mjs"];
    is_told_its_own_message("hello.mjs", &mut in_folder(&app, "node", &run_it)).await;

    let import = "import { connect } from 'global-channels-client';";
    assert!(example.contains(import), "{example}");
    let required = "const { connect } = require('global-channels-client');";
    let example = example.replace(import, required).replace("'ann'", "'ben'");
    let example = format!("(async () => {{\n{example}\n}})();\n");
    std::fs::write(app.join("hello.cjs"), example).expect("written");
    let run_it = ["--import", "./socket.mjs", "hello.cjs"];
    is_told_its_own_message("hello.cjs", &mut in_folder(&app, "node", &run_it)).await;
}

#[tokio::test]
async fn the_library_in_python_installs_into_an_empty_folder_and_its_example_runs() {
    let server = Standalone::start().await;
    let folder = TempDir::new().expect("a folder");
    let library = workspace().join("clients/python");
    let destination = folder.path().to_str().expect("a path");
    let build = ["-m", "build", "--outdir", destination];
    run("build", &mut in_folder(&library, python(), &build)).await;
    only(folder.path(), ".tar.gz");
    let wheel = only(folder.path(), ".whl");
    let environment = folder.path().join("venv");
    let make = ["-m", "venv", environment.to_str().expect("a path")];
    run("venv", &mut in_folder(folder.path(), python(), &make)).await;
    let own = environment.join("bin/python");
    let wheel = wheel.to_str().expect("a path");
    let install = ["-m", "pip", "install", "--quiet", wheel];
    run("pip install", &mut in_folder(folder.path(), &own, &install)).await;

    let example = example("python", "python", &server);
    std::fs::write(folder.path().join("parrot.py"), example).expect("written");
    let listener = Client::connect(server.address()).await;
    let login = json!({"userId": "listener", "lessonId": 4});
    assert_eq!(listener.request(LOGIN, login).await["code"], 0);
    let mut command = in_folder(folder.path(), &own, &["parrot.py"]);
    let _parrot = Process::spawn("parrot.py", &mut command);
    // Their joins, and that it is there.
    let pushes = listener.until_pushes(3).await;
    assert_eq!(pushes[2]["body"]["userId"], "parrot", "{pushes:?}");
    listener.request(SEND, json!({"content": "hello"})).await;
    let pushes = listener.until_pushes(5).await;
    assert_eq!(pushes[4]["body"]["content"], "listener says hello");
}

#[tokio::test]
async fn the_library_in_javascript_passes_its_own_tests_and_is_small_enough() {
    let (_copy, library) = copy_of_javascript().await;
    for script in ["test", "size"] {
        let arguments = ["run", script];
        let output = run("npm", &mut in_folder(&library, "npm", &arguments)).await;
        println!("{}", output.lines().last().unwrap_or_default());
    }
}

#[tokio::test]
async fn the_library_in_python_passes_its_own_tests_and_is_typed() {
    let library = workspace().join("clients/python");
    for arguments in [
        &["-m", "pytest", "-q", "-p", "no:cacheprovider"][..],
        &["-m", "mypy", "--no-incremental"],
        &["-m", "ruff", "check", "--no-cache", "src", "tests"],
        &[
            "-m",
            "ruff",
            "format",
            "--check",
            "--no-cache",
            "src",
            "tests",
        ],
    ] {
        let output = run("python", &mut in_folder(&library, python(), arguments)).await;
        println!("{}", output.lines().last().unwrap_or_default());
    }
}
