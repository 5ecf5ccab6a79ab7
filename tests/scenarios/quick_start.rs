//! The commands in README.md and in the guide for Pomelo's developers work as printed.

use testkit::permit::Permit;
use testkit::readme;

/// Runs the commands of a document, which has at least so many blocks of them.
async fn works(document: &str, least: usize) {
    let _permit = Permit::alone().await;
    let blocks = readme::run(document).await;
    assert!(
        blocks >= least,
        "{document} has {blocks} blocks marked as `sh test`"
    );
}

#[tokio::test]
async fn the_commands_of_the_readme_work_as_printed() {
    works("README.md", 2).await;
}

#[tokio::test]
async fn the_commands_for_developers_of_pomelo_work_as_printed() {
    works("docs/migrating-from-pomelo.md", 8).await;
}
