//! Runs the commands in README.md and other documents, so that a test fails if they don't work.
//!
//! Fenced blocks with the info string `sh test` run one after the other, in one bash at the workspace's root. Each must
//! succeed; the last command of a block with `sh test fails` must fail. Fenced blocks that follow, with only blank lines in
//! between, show what is printed:
//!
//! - `text`: each of its lines must be contained in a line of the output.
//! - `json`: each name of a field in it must be in the output. The values are examples, and `…` stands for what is left out.
//!
//! Commands that a block starts with `&` run until the end, or until a block with `sh test fresh`: they are ended before it.
//! What they print while a later block runs belongs to the output of that block, too. After a block with `&`, the test waits
//! until every port that the block names accepts connections.
//!
//! The test replaces the documented ports by free ones, and sets the defaults of `standalone` through its environment.
//! It replaces `target/release` by the directory in which cargo builds.

use crate::process::Process;
use crate::{binaries, wait, workspace};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The ports that a document may name.
const PORTS: [u16; 9] = [3010, 3011, 4001, 4002, 6379, 9001, 9002, 9101, 9102];

/// The limit of time for a block. It is long because a block may build something.
const BLOCK_TIME: Duration = Duration::from_secs(300);

/// A fenced block of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Fence {
    /// The line in the file where it begins; the first line is 1.
    pub line: usize,
    /// What stands behind the backticks.
    pub info: String,
    /// What is in it, without the indentation of the fence.
    pub lines: Vec<String>,
    /// True if only blank lines are between the fence before and this one.
    pub follows: bool,
}

/// Commands and their expected output.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The line in the file where it begins; the first line is 1.
    pub line: usize,
    /// True if all background commands must be ended first.
    pub fresh: bool,
    /// True if the last command must fail.
    pub fails: bool,
    /// The shell commands.
    pub script: String,
    /// Texts, each of which must be contained in a line of the output.
    pub output: Vec<String>,
}

/// All fenced blocks.
#[must_use]
pub fn fences(markdown: &str) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut lines = markdown.lines().zip(1..);
    let mut follows = false;
    while let Some((line, number)) = lines.next() {
        let Some(info) = line.trim().strip_prefix("```") else {
            follows &= line.trim().is_empty();
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let body = lines
            .by_ref()
            .map(|(line, _)| line)
            .take_while(|line| line.trim() != "```")
            .map(|line| line.get(indent..).unwrap_or_default().to_owned());
        fences.push(Fence {
            line: number,
            info: info.trim().to_owned(),
            lines: body.collect(),
            follows,
        });
        follows = true;
    }
    fences
}

/// The blocks to run.
#[must_use]
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    // True while what follows shows the output of the last block.
    let mut shows = false;
    for fence in fences(markdown) {
        shows &= fence.follows;
        match (fence.info.as_str(), blocks.last_mut()) {
            (info @ ("sh test" | "sh test fresh" | "sh test fails"), _) => {
                blocks.push(Block {
                    line: fence.line,
                    fresh: info.ends_with("fresh"),
                    fails: info.ends_with("fails"),
                    script: fence.lines.join("\n"),
                    output: Vec::new(),
                });
                shows = true;
            }
            ("text", Some(block)) if shows => {
                let expected = fence.lines.iter().map(|line| line.trim().to_owned());
                block
                    .output
                    .extend(expected.filter(|line| !line.is_empty()));
            }
            ("json", Some(block)) if shows => block.output.extend(names(&fence.lines.join("\n"))),
            _ => shows = false,
        }
    }
    blocks
}

/// The names of all fields in JSON that may leave things out, in quotes.
fn names(json: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut parts = json.split('"');
    parts.next();
    while let (Some(text), Some(behind)) = (parts.next(), parts.next()) {
        let name = format!("\"{text}\"");
        if behind.trim_start().starts_with(':') && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Runs the blocks of a Markdown file at the workspace's root, and returns how many there were.
///
/// # Panics
/// If a block fails, or does not print the expected lines.
pub async fn run(file: &str) -> usize {
    let markdown = std::fs::read_to_string(workspace().join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    let scratch = tempfile::tempdir().expect("there is room for temporary files");
    let ports = free_ports();
    let blocks: Vec<_> = blocks(&markdown)
        .into_iter()
        .map(|block| Block {
            script: substitute(&block.script, &ports),
            output: (block.output.iter())
                .map(|line| substitute(line, &ports))
                .collect(),
            ..block
        })
        .collect();
    let script = driver(&blocks, scratch.path());
    let mut command = Command::new("bash");
    // A block may run cargo.
    binaries::clear_test_variables(&mut command);
    command
        .args(["-c", &script])
        .current_dir(workspace())
        .env("TMPDIR", scratch.path())
        .envs(standalone_ports(&ports));
    let mut bash = Process::spawn("bash", &mut command);
    // The files in which the output of the present block is, each from some byte on.
    let mut outputs: Vec<(PathBuf, usize)> = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let name = format!("{file}:{}", block.line);
        let done = scratch.path().join(format!("{index}.done"));
        if block.fresh {
            outputs.clear();
        }
        outputs.push((scratch.path().join(format!("{index}.output")), 0));
        let written = || -> String {
            outputs
                .iter()
                .map(|(file, from)| text(file, *from))
                .collect()
        };
        wait::eventually(&name, BLOCK_TIME, async || {
            let failed = bash.poll();
            assert!(
                done.exists() || failed.is_none(),
                "{name} failed ({failed:?}):\n{}\n{}",
                block.script,
                written()
            );
            done.exists()
        })
        .await;
        let goes_on = in_background(&block.script);
        let patience = if goes_on {
            for &port in ports.values() {
                if block.script.contains(&port.to_string()) {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    let served = wait::within(BLOCK_TIME, async || {
                        tokio::net::TcpStream::connect(address).await.ok()
                    });
                    let served = served.await.is_some();
                    assert!(served, "{name} does not serve port {port}:\n{}", written());
                }
            }
            BLOCK_TIME
        } else {
            crate::SOON
        };
        for expected in &block.output {
            let printed = wait::within(patience, async || {
                let found = written().lines().any(|line| line.contains(expected));
                (found || bash.poll().is_some()).then_some(found)
            });
            let printed = printed.await == Some(true);
            assert!(printed, "{name} does not print {expected}:\n{}", written());
        }
        if !goes_on {
            outputs.pop();
        }
        for (file, from) in &mut outputs {
            *from += text(file, *from).len();
        }
        // The next block may begin.
        std::fs::write(scratch.path().join(format!("{index}.checked")), "")
            .expect("there is room for temporary files");
    }
    bash.terminate_group();
    blocks.len()
}

/// What a file has from this byte on. Text that is not UTF-8 yet comes later.
fn text(file: &Path, from: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let rest = bytes.get(from..).unwrap_or_default();
    match std::str::from_utf8(rest) {
        Ok(text) => text.to_owned(),
        Err(error) => String::from_utf8_lossy(&rest[..error.valid_up_to()]).into_owned(),
    }
}

/// The script of one shell for all blocks, so that variables and background processes last. A block begins when the one
/// before it was checked.
fn driver(blocks: &[Block], scratch: &Path) -> String {
    let mut script = String::from("set -euo pipefail\n");
    let scratch = scratch.display();
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{scratch}/{index}");
        if block.fresh {
            script.push_str("{ jobs -p | xargs -r kill; wait; } || true\n");
        }
        std::fs::write(format!("{path}.sh"), &block.script)
            .expect("there is room for temporary files");
        let run = if block.fails {
            format!("if source '{path}.sh'; then echo 'this has not failed'; exit 1; fi")
        } else {
            format!("source '{path}.sh'")
        };
        writeln!(
            script,
            "exec >'{path}.output' 2>&1 </dev/null\n\
             {run}\n\
             touch '{path}.done'\n\
             while [[ ! -e '{path}.checked' ]]; do sleep 0.05; done"
        )
        .expect("a string takes everything");
    }
    script.push_str("wait\n");
    script
}

fn in_background(script: &str) -> bool {
    script.lines().any(|line| {
        let command = line.split(" #").next().unwrap_or_default().trim_end();
        command.ends_with('&') && !command.ends_with("&&")
    })
}

/// The environment that makes `standalone` use the test's ports where README.md names none.
fn standalone_ports(ports: &BTreeMap<u16, u16>) -> [(&'static str, String); 3] {
    let address = |port| format!("127.0.0.1:{}", ports[&port]);
    [
        ("STANDALONE_LISTEN", address(3010)),
        ("STANDALONE_GRPC", address(4001)),
        ("STANDALONE_ADMIN", address(9001)),
    ]
}

fn free_ports() -> BTreeMap<u16, u16> {
    // All listeners exist at the same time, so that no port is given twice.
    let listeners = PORTS.map(|port| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        (port, listener.expect("the kernel has a free port"))
    });
    listeners
        .iter()
        .map(|(port, listener)| {
            let address = listener.local_addr().expect("a bound listener");
            (*port, address.port())
        })
        .collect()
}

/// Replaces the documented ports and build directory by those of the test.
fn substitute(script: &str, ports: &BTreeMap<u16, u16>) -> String {
    let built = format!("{}/", binaries::directory().display());
    let script = script.replace("./target/release/", "target/release/");
    let script = script.replace("target/release/", &built);
    let mut result = String::with_capacity(script.len());
    let mut rest = script.as_str();
    while let Some(begin) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[begin..].find(|c: char| !c.is_ascii_digit());
        let end = digits.map_or(rest.len(), |length| begin + length);
        let number = &rest[begin..end];
        result.push_str(&rest[..begin]);
        match number.parse().ok().and_then(|port: u16| ports.get(&port)) {
            Some(port) => result.push_str(&port.to_string()),
            None => result.push_str(number),
        }
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_marked_as_tests_are_run_with_the_output_that_follows_them() {
        let markdown = "\
# Title
```sh
rm -rf not-run
```
```sh test
echo one
```

```text
one
```
Words.
```text
no output of anything
```
- in a list
  ```sh test fresh
  echo two \\
    three
  ```
";
        let expected = [
            Block {
                line: 5,
                script: "echo one".into(),
                output: vec!["one".into()],
                ..Block::default()
            },
            Block {
                line: 17,
                fresh: true,
                script: "echo two \\\n  three".into(),
                ..Block::default()
            },
        ];
        assert_eq!(blocks(markdown), expected);
    }

    #[test]
    fn several_blocks_may_show_the_output_and_of_json_only_names_count() {
        let markdown = "\
```sh test fails
false
```
```json
{\"a\": {\"bc\": \"d:\", \u{2026}}, \"a\" : 1}
```
```text
line
```
```sh
not run
```
```text
not its output
```
";
        let expected = [Block {
            line: 1,
            fails: true,
            script: "false".into(),
            output: vec!["\"a\"".into(), "\"bc\"".into(), "line".into()],
            ..Block::default()
        }];
        assert_eq!(blocks(markdown), expected);
    }

    #[test]
    fn a_command_in_the_background_is_not_confused_with_a_list_of_commands() {
        assert!(in_background("chat --listen x \\\n  --admin y &"));
        assert!(in_background("chat &   # at 127.0.0.1:4001"));
        assert!(!in_background("cd a &&\nb"));
    }
}
