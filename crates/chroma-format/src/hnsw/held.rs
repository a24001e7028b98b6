//! Whether an index holds the vector that a user gave to Chroma.

use super::Metric;

/// Whether the vector `stored` in an index is the one that a user gave as `wanted`, but for rounding. `None` where nothing can be said:
/// they have not as many numbers, one has a number that is not finite, or `wanted` is too long or too short to be normalised.
#[must_use]
pub fn holds(metric: Metric, stored: &[f32], wanted: &[f32]) -> Option<bool> {
    let finite = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite());
    if stored.len() != wanted.len() || !finite(stored) || !finite(wanted) {
        return None;
    }
    let norm = if metric == Metric::Cosine { length(wanted)? } else { 1.0 };
    // Of nothing but zeros there is no direction: they stay zeros.
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    let greatest = wanted.iter().fold(0.0_f64, |most, number| most.max(f64::from(*number).abs()));
    let near = |(stored, wanted): (&f32, &f32)| {
        let distance = f64::from(*stored) - f64::from(*wanted) * factor;
        distance.abs() <= ROUNDING * greatest * factor
    };
    Some(stored.iter().zip(wanted).all(near))
}

/// Whether `stored` in `length.bin` is the length of the vector that a user gave as `wanted`, but for rounding. `None` as for [`holds`].
#[must_use]
pub fn holds_length(stored: f32, wanted: &[f32]) -> Option<bool> {
    let norm = length(wanted)?;
    Some((f64::from(stored) - norm).abs() <= ROUNDING * norm)
}

/// `None` where its square is none that 32 bits hold.
fn length(vector: &[f32]) -> Option<f64> {
    let square: f64 = vector.iter().map(|number| f64::from(*number) * f64::from(*number)).sum();
    let norm = libm::sqrt(square);
    (norm == 0.0 || (NORM_MIN..NORM_MAX).contains(&norm)).then_some(norm)
}

/// Sums of millions of squares in 32 bits are that near.
const ROUNDING: f64 = 1e-3;
const NORM_MIN: f64 = 1e-15;
const NORM_MAX: f64 = 1e15;

#[cfg(test)]
mod tests {
    use super::*;
    use Metric::{Cosine, L2, Product};

    #[test]
    fn only_another_vector_is_told_from_rounding() {
        let (same, other) = (Some(true), Some(false));
        for (metric, stored, wanted, want) in [
            (L2, &[3.0, 4.0][..], &[3.0, 4.0][..], same),
            (Product, &[3.0, 4.0], &[3.0, 4.000_1], same),
            (L2, &[0.6, 0.8], &[3.0, 4.0], other),
            (Cosine, &[0.6, 0.8], &[3.0, 4.0], same),
            (Cosine, &[0.6, 0.8], &[3.0e-9, 4.0e-9], same),
            (Cosine, &[0.6, 0.8], &[3.0, 4.1], other),
            (Cosine, &[-0.6, -0.8], &[3.0, 4.0], other),
            (L2, &[1e-9, 2e-9], &[2e-9, 1e-9], other),
            (L2, &[0.0, 0.0], &[0.0, 0.0], same),
            (Cosine, &[0.0, 0.0], &[0.0, 0.0], same),
            (Cosine, &[0.6, 0.8], &[0.0, 0.0], other),
            (L2, &[1.0], &[1.0, 2.0], None),
            (L2, &[f32::NAN, 1.0], &[1.0, 1.0], None),
            (L2, &[1.0, 1.0], &[f32::INFINITY, 1.0], None),
            // Chroma cannot normalise these.
            (Cosine, &[0.0, 0.0], &[3e30, 4e30], None),
            (Cosine, &[0.0, 0.0], &[3e-30, 4e-30], None),
        ] {
            assert_eq!(holds(metric, stored, wanted), want, "{metric:?} {stored:?} {wanted:?}");
        }
        assert_eq!(holds_length(5.000_1, &[3.0, 4.0]), same);
        assert_eq!(holds_length(5.1, &[3.0, 4.0]), other);
        assert_eq!(holds_length(f32::NAN, &[3.0, 4.0]), other);
        assert_eq!(holds_length(0.0, &[f32::NAN, 4.0]), None);
        assert_eq!(holds_length(0.0, &[0.0, 0.0]), same);
    }
}
