//! Page tokens: where the last page ended, bound to the filter that they belong to.
//!
//! A token is not a secret and holds no right: a forged one can only name another place in a
//! list that its bearer may read anyway.

use crate::{Error, Nanos};

const VERSION: u8 = 1;
const BYTES: usize = 1 + 4 * 8;

/// A row's place in the order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The close time; the largest time while the run is open.
    pub sort_time: Nanos,
    pub start_time: Nanos,
    pub run: i64,
}

impl Position {
    /// The place of a row with these columns.
    pub fn new(close_time: Option<Nanos>, start_time: Nanos, run: i64) -> Self {
        Position {
            sort_time: close_time.unwrap_or(super::layout::OPEN),
            start_time,
            run,
        }
    }
}

/// What ties a token to its query. FNV-1a, because it must be the same in the next version.
pub(super) fn binding(namespace: i64, filter: &str) -> u64 {
    let namespace = namespace.to_le_bytes();
    let bytes = namespace.iter().chain(filter.as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(super) fn encode(binding: u64, position: Position) -> Vec<u8> {
    let mut token = vec![VERSION];
    token.extend(binding.to_le_bytes());
    for part in [position.sort_time, position.start_time, position.run] {
        token.extend(part.to_le_bytes());
    }
    token
}

pub(super) fn decode(binding: u64, token: &[u8]) -> Result<Position, Error> {
    let (&version, rest) = token.split_first().ok_or(Error::InvalidPageToken)?;
    if version != VERSION || token.len() != BYTES {
        return Err(Error::InvalidPageToken);
    }
    let mut parts = rest.chunks_exact(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        bytes
    });
    let mut next = || parts.next().ok_or(Error::InvalidPageToken);
    if u64::from_le_bytes(next()?) != binding {
        return Err(Error::InvalidPageToken);
    }
    Ok(Position {
        sort_time: Nanos::from_le_bytes(next()?),
        start_time: Nanos::from_le_bytes(next()?),
        run: i64::from_le_bytes(next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_only_for_their_query() {
        let position = Position::new(None, -5, 7);
        let bound = binding(1, "A = 1");
        let token = encode(bound, position);
        assert_eq!(decode(bound, &token).unwrap(), position);

        let mut garbage: Vec<Vec<u8>> =
            vec![vec![], vec![VERSION], vec![0; BYTES], b"x".repeat(40)];
        garbage.push(token[..token.len() - 1].to_vec());
        garbage.push([&token[..], &[0]].concat());
        for token in &garbage {
            assert!(
                matches!(decode(bound, token), Err(Error::InvalidPageToken)),
                "{token:?}"
            );
        }
        for other in [binding(2, "A = 1"), binding(1, "A = 2"), binding(1, "")] {
            assert!(matches!(
                decode(other, &token),
                Err(Error::InvalidPageToken)
            ));
        }
    }
}
