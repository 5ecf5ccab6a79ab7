//! Runs the commands in README.md, so that a test fails if they don't work.
//!
//! Fenced blocks with the info string `sh test` run one after the other, in one bash at the workspace's root. Each must
//! succeed. If a fenced `text` block follows, with only blank lines in between, each of its lines must be contained in
//! a line of the output, to which background commands may still be writing. Commands that a block starts with `&` run
//! until the end, or until a block with `sh test fresh`: they are ended before it. After a block with `&`, the test
//! waits until every port that the block names accepts connections.
//!
//! The test replaces the documented ports by free ones, and sets the defaults of `standalone` through its environment.
//! It replaces `target/release` by the directory in which cargo builds.

use crate::process::Process;
use crate::{binaries, wait, workspace};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The ports that README.md may name.
const PORTS: [u16; 9] = [3010, 3011, 4001, 4002, 6379, 9001, 9002, 9101, 9102];

/// The limit of time for a block. It is long because a block may build something.
const BLOCK_TIME: Duration = Duration::from_secs(300);

/// Commands and their expected output.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The line in the file where it begins; the first line is 1.
    pub line: usize,
    /// True if all background commands must be ended first.
    pub fresh: bool,
    /// The shell commands.
    pub script: String,
    /// Lines, each of which must be contained in a line of the output.
    pub output: Vec<String>,
}

/// Finds the blocks to run.
#[must_use]
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = markdown.lines().zip(1..);
    // True while only blank lines have followed a script.
    let mut output_may_follow = false;
    while let Some((line, number)) = lines.next() {
        let Some(info) = line.trim().strip_prefix("```") else {
            output_may_follow &= line.trim().is_empty();
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let body: Vec<_> = lines
            .by_ref()
            .map(|(line, _)| line)
            .take_while(|line| line.trim() != "```")
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        let shown = std::mem::take(&mut output_may_follow);
        match (info.trim(), blocks.last_mut()) {
            (info @ ("sh test" | "sh test fresh"), _) => {
                blocks.push(Block {
                    line: number,
                    fresh: info.ends_with("fresh"),
                    script: body.join("\n"),
                    output: Vec::new(),
                });
                output_may_follow = true;
            }
            ("text", Some(block)) if shown => {
                let expected = body.iter().map(|line| line.trim().to_owned());
                block.output = expected.filter(|line| !line.is_empty()).collect();
            }
            _ => {}
        }
    }
    blocks
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
    for (index, block) in blocks.iter().enumerate() {
        let name = format!("{file}:{}", block.line);
        let done = scratch.path().join(format!("{index}.done"));
        let output = scratch.path().join(format!("{index}.output"));
        let written = || std::fs::read_to_string(&output).unwrap_or_default();
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
        let patience = if in_background(&block.script) {
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
        // The next block may begin.
        std::fs::write(scratch.path().join(format!("{index}.checked")), "")
            .expect("there is room for temporary files");
    }
    bash.terminate_group();
    blocks.len()
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
        writeln!(
            script,
            "exec >'{path}.output' 2>&1 </dev/null\n\
             source '{path}.sh'\n\
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
                fresh: false,
                script: "echo one".into(),
                output: vec!["one".into()],
            },
            Block {
                line: 17,
                fresh: true,
                script: "echo two \\\n  three".into(),
                output: Vec::new(),
            },
        ];
        assert_eq!(blocks(markdown), expected);
    }

    #[test]
    fn a_command_in_the_background_is_not_confused_with_a_list_of_commands() {
        assert!(in_background("chat --listen x \\\n  --admin y &"));
        assert!(in_background("chat &   # at 127.0.0.1:4001"));
        assert!(!in_background("cd a &&\nb"));
    }
}
