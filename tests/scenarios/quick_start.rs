//! The commands in README.md work as printed.

use testkit::permit::Permit;
use testkit::readme;

#[tokio::test]
async fn the_commands_of_the_readme_work_as_printed() {
    let _permit = Permit::alone().await;
    let blocks = readme::run("README.md").await;
    assert!(
        blocks >= 2,
        "README.md has {blocks} blocks marked as `sh test`"
    );
}
