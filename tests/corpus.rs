//! Plays every corpus of `fuzz/corpus` through the functions that are fuzzed, so that what was once found stays mended.

use std::fs;
use std::path::Path;

use rookery::{base, config, domain, format, http, network, store, web, xmpp};

#[path = "../fuzz/src/targets.rs"]
mod targets;

#[test]
fn every_corpus_passes_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut files = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")) {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
            files += 1;
        }
        assert!(files > 0, "{name} has a corpus");
    }
    let folders = fs::read_dir(&corpora).unwrap().count();
    assert_eq!(folders, targets::ALL.len(), "every corpus has its target");
}
