//! The commands in README.md work as printed.

use testkit::readme;
use testkit::turn::Turn;

#[tokio::test]
async fn the_commands_of_the_readme_work_as_printed() {
    let _turn = Turn::alone().await;
    let blocks = readme::run("README.md").await;
    assert!(
        blocks >= 2,
        "README.md has {blocks} blocks marked as `sh test`"
    );
}
