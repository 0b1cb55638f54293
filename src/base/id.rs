//! Randomness as a value that is given: ids, tokens and jitter come from here, so that a test can fix them.

use std::sync::{Arc, Mutex};

use rand::rngs::{OsRng, StdRng};
use rand::{Rng, SeedableRng, TryRngCore};

/// A source of random ids; cheap to clone. Production ids come from the operating system's generator.
#[derive(Clone, Default)]
pub struct Ids(Option<Arc<Mutex<StdRng>>>);

const ALPHABET: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";

impl Ids {
    pub fn system() -> Self {
        Ids(None)
    }

    /// The same ids in every run: for tests only.
    pub fn seeded(seed: u64) -> Self {
        Ids(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            // The system's generator fails only where nothing could work; a panic here is the honest end.
            None => OsRng.try_fill_bytes(bytes).expect("the operating system gives random bytes"),
            Some(rng) => rng.lock().unwrap_or_else(|e| e.into_inner()).fill(bytes),
        }
    }

    /// `chars` characters of `a-z2-8`, five bits each. 16 are enough for an item id, 26 for a secret token.
    pub fn token(&self, chars: usize) -> String {
        let mut bytes = vec![0; chars];
        self.fill(&mut bytes);
        bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect()
    }

    /// Evenly from 0 up to, but not including, 1: for jitter.
    pub fn fraction(&self) -> f64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }
}
