//! A model that costs nothing, for tests, examples without a model and for measuring what surrounds
//! an embedding. Its vectors are sums of directions drawn from the hash of each word: texts that
//! share words are near each other, and equal texts are equal. Not for use on real data.

use async_trait::async_trait;

use super::{Call, EMPTY, Embedded, Embedder, Error};

const DEFAULT_DIMENSION: usize = 384;
const DIMENSION_MAX: usize = 16_384;

/// See the module.
#[derive(Clone, Debug)]
pub struct Fake {
    name: String,
    dimension: usize,
}

impl Fake {
    pub fn new(dimension: usize) -> Self {
        Self {
            name: format!("fake:{dimension}"),
            dimension,
        }
    }

    /// The one that is meant where no dimension is said.
    pub(crate) fn usual() -> Self {
        Self::new(DEFAULT_DIMENSION)
    }

    /// The model that `fake` or `fake:DIMENSION` names; `None` for another name.
    pub(crate) fn named(name: &str) -> Result<Option<Self>, Error> {
        if name == "fake" {
            return Ok(Some(Self::usual()));
        }
        let Some(dimension) = name.strip_prefix("fake:") else {
            return Ok(None);
        };
        match dimension.parse() {
            Ok(dimension @ 1..=DIMENSION_MAX) => Ok(Some(Self::new(dimension))),
            _ => Err(Error::misconfigured(format!(
                "model {name:?}: the dimension is a number from 1 to {DIMENSION_MAX}, as in fake:384"
            ))),
        }
    }

    /// The vector of one text.
    pub fn vector(&self, text: &str) -> Embedded {
        if text.trim().is_empty() {
            return Err(EMPTY.to_owned());
        }
        let mut vector = vec![0.0_f32; self.dimension];
        // Signs would let two words cancel each other out, down to a vector of length zero.
        let mut add = |hash: u64| {
            for shift in [0, 16, 32, 48] {
                vector[((hash >> shift) & 0xffff) as usize % self.dimension] += 1.0;
            }
        };
        let mut any = false;
        for word in text.split(|character: char| !character.is_alphanumeric()) {
            if !word.is_empty() {
                any = true;
                add(hash(word));
            }
        }
        if !any {
            add(hash(text));
        }
        normalise(&mut vector);
        Ok(vector)
    }
}

#[async_trait]
impl Embedder for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn revision(&self) -> &str {
        "fake-1"
    }

    fn dimension(&self) -> Option<usize> {
        Some(self.dimension)
    }

    fn max_tokens(&self) -> Option<usize> {
        None
    }

    async fn embed(&self, texts: Vec<String>, call: &Call) -> Result<Vec<Embedded>, Error> {
        let batch = call.batch.unwrap_or(texts.len()).max(1);
        let mut vectors = Vec::with_capacity(texts.len());
        for some in texts.chunks(batch) {
            if call.cancelled.is_cancelled() {
                return Err(Error::cancelled());
            }
            vectors.extend(some.iter().map(|text| self.vector(text)));
            (call.progress)(vectors.len(), texts.len());
        }
        Ok(vectors)
    }
}

/// FNV-1a of the word without regard to ASCII case, its bits mixed by the finaliser of splitmix64.
fn hash(word: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word.bytes() {
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn normalise(vector: &mut [f32]) {
    let length = vector
        .iter()
        .map(|number| number * number)
        .sum::<f32>()
        .sqrt();
    for number in vector {
        *number /= length;
    }
}
