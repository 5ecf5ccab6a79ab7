//! The workflows of GitHub in .github/workflows/: actionlint accepts them, and they call the scripts that people call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::{workspace, yaml};

/// The workflows, in the order of their names.
fn workflows() -> Vec<PathBuf> {
    let entries =
        fs::read_dir(workspace().join(".github/workflows")).expect("the folder can be read");
    let mut files: Vec<_> = entries.map(|it| it.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
#[ignore = "needs actionlint: ./tests/run --long"]
fn actionlint_finds_nothing_in_the_workflows() {
    let files = workflows();
    assert_eq!(files.len(), 2, "{files:?}");
    // shellcheck may be there or not, and would find more on some machines than on others.
    let output = Command::new("actionlint")
        .arg("-shellcheck=")
        .args(&files)
        .output()
        .expect("./tests/run installs actionlint");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn workflows_call_scripts_that_are_there_and_may_write_only_where_they_publish() {
    let files = workflows();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let mut called = Vec::new();
    for workflow in yaml::documents(&files) {
        assert_eq!(
            workflow["permissions"],
            serde_json::json!({ "contents": "read" })
        );
        for (name, job) in workflow["jobs"].as_object().expect("jobs") {
            assert!(job["timeout-minutes"].is_u64(), "{name}");
            assert!(name == "publish" || job["permissions"].is_null(), "{name}");
            for step in job["steps"].as_array().expect("steps") {
                let line = step["run"].as_str().unwrap_or_default();
                let program = line.split(' ').next().unwrap_or_default();
                if program.starts_with('.') {
                    let metadata = fs::metadata(workspace().join(program));
                    let mode = metadata.expect("the script is there").permissions().mode();
                    assert_ne!(mode & 0o100, 0, "{program}");
                    called.push(program.to_owned());
                }
            }
        }
    }
    assert_eq!(called, [".ci/checks", "./tests/run", ".ci/release"]);
    // What people run before they merge is the same.
    let run = fs::read_to_string(workspace().join(".ci/run")).expect("it can be read");
    for script in [".ci/checks", "./tests/run"] {
        assert!(run.lines().any(|line| line.starts_with(script)), "{script}");
    }
}
