//! Scenarios that a person can read, in `tests/scenarios/*.scn`; how they are written stands in `runner.rs` there.
//! And two rules over any input: the edge never panics, and a request is answered once.

#[path = "scenarios/runner.rs"]
mod runner;

use std::path::Path;

use proptest::prelude::*;

use runner::{Setup, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "scn"));
    files.sort();
    assert!(files.len() >= 10, "scenarios are missing");
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut world = World::new(Setup::default());
        world.play(&name, &std::fs::read_to_string(&path).unwrap()).await;
        let rest = world.rest().await;
        assert!(rest.is_empty(), "{name}: nobody expected\n{}", rest.join("\n"));
    }
}
