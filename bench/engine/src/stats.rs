//! What becomes of measured values.

use std::time::Duration;

/// The nearest-rank percentile of durations, in milliseconds.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> f64 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values
        .get(rank - 1)
        .map_or(f64::NAN, |value| value.as_secs_f64() * 1e3)
}

pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// A number with every digit depending on every one of the input: ids made of it are scattered, as
/// those of most users are.
pub(crate) fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut hundred: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        hundred.reverse();
        for (count, percent, expected) in [
            (100, 50, 50.0),
            (100, 99, 99.0),
            (1, 99, 100.0),
            (3, 50, 99.0),
        ] {
            let found = percentile(&mut hundred.clone()[..count], percent);
            assert_eq!(round(found, 6), expected, "p{percent} of {count}");
        }
        assert!(percentile(&mut [], 50).is_nan());
    }
}
