//! The agent of the README, as it is printed.

use std::path::Path;

use crate::way;
use crate::world::World;

/// The first block of Rust in the README, without what the example says about itself.
fn printed() -> String {
    let readme = include_str!("../../README.md");
    let block = readme.split("```rust\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[test]
fn the_readme_prints_the_example() {
    let example = include_str!("../../examples/answer_ticket.rs");
    let code = example.split_once("\n\n").unwrap().1;
    assert_eq!(printed().trim(), code.trim());
}

#[tokio::test]
async fn the_example_runs_as_it_is_printed() {
    let world = World::start().await;
    let folder = std::env::current_exe().unwrap();
    let example = folder.ancestors().nth(2).unwrap().join("examples/answer_ticket");
    assert!(example.exists(), "`cargo test` without a target builds it");
    let said = tokio::process::Command::new(example)
        .env("DAYFLY_BROKER", &world.broker)
        .env("DAYFLY_AGENT", "support-bot")
        .env("DAYFLY_DEV_FOLDER", world.folder())
        .arg(&world.tool)
        .output()
        .await
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "{\"customer\":\"42\",\"name\":\"Harbour Books\"}\n"
    );
    assert_eq!(world.live_leases("support-bot").await, 0);
    let (status, _) = way::get(&world.customer(42), None).await;
    assert_eq!(status, 401);
    assert!(Path::new(&world.evidence_file("support-bot")).exists());
}
