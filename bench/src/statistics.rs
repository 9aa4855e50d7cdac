//! Figures of several runs: medians, and how far the ratio of two medians can be trusted.
//!
//! The interval is the percentile bootstrap: both sets of runs are drawn anew with replacement, the
//! ratio of the medians is taken each time, and the interval holds the middle 95 % of those. It
//! assumes nothing of the distribution, which has a long tail on a shared machine. The seed is
//! fixed: the same figures give the same interval.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const RESAMPLES: usize = 10_000;
const CONFIDENCE: f64 = 0.95;
const SEED: u64 = 0x5eed_0fb3_9c41_d207;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let (&min, &max) = (
            figures.iter().min_by(|a, b| a.total_cmp(b))?,
            figures.iter().max_by(|a, b| a.total_cmp(b))?,
        );
        Some(Self { median: median(figures), min, max })
    }
}

/// The middle figure, or the mean of the two in the middle; not a number of nothing.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    middle_of_sorted(&sorted)
}

/// The ratio of two medians, and where it lies with a confidence of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// Of `b` against `a`; `None` unless both have figures and all of them are above zero.
    pub fn of_medians(a: &[f64], b: &[f64]) -> Option<Self> {
        Self::resampled(a, b, RESAMPLES)
    }

    fn resampled(a: &[f64], b: &[f64], resamples: usize) -> Option<Self> {
        let positive = |figures: &[f64]| {
            !figures.is_empty() && figures.iter().all(|figure| figure.is_finite() && *figure > 0.0)
        };
        if !positive(a) || !positive(b) {
            return None;
        }
        let mut random = StdRng::seed_from_u64(SEED);
        let mut ratios: Vec<f64> = (0..resamples)
            .map(|_| resampled_median(b, &mut random) / resampled_median(a, &mut random))
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Some(Self {
            ratio: median(b) / median(a),
            low: quantile_of_sorted(&ratios, tail),
            high: quantile_of_sorted(&ratios, 1.0 - tail),
        })
    }

    /// How far from 1 the interval reaches: what chance alone makes of equal sides.
    pub fn reach(&self) -> f64 {
        (1.0 - self.low).abs().max((self.high - 1.0).abs())
    }
}

fn resampled_median(figures: &[f64], random: &mut StdRng) -> f64 {
    let mut drawn: Vec<f64> =
        figures.iter().map(|_| figures[random.random_range(0..figures.len())]).collect();
    drawn.sort_unstable_by(f64::total_cmp);
    middle_of_sorted(&drawn)
}

fn middle_of_sorted(sorted: &[f64]) -> f64 {
    quantile_of_sorted(sorted, 0.5)
}

/// Linear between the two nearest ranks.
fn quantile_of_sorted(sorted: &[f64], quantile: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let rank = quantile * last as f64;
    let (below, above) = (rank.floor() as usize, rank.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_none() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 10.0]), 3.0);
        assert!(median(&[]).is_nan());
        let summary = Summary::of(&[3.0, 1.0, 2.0]);
        assert_eq!(summary, Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn quantiles_lie_between_ranks() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile_of_sorted(&sorted, 0.025), 2.5);
        assert_eq!(quantile_of_sorted(&sorted, 1.0), 100.0);
    }

    #[test]
    fn equal_figures_have_no_width() {
        let ratio = Ratio::of_medians(&[10.0; 5], &[11.0; 5]).unwrap();
        assert_eq!((ratio.ratio, ratio.low, ratio.high), (1.1, 1.1, 1.1));
        assert!((ratio.reach() - 0.1).abs() < 1e-12);
    }

    /// 95 % of the intervals over draws of one distribution must hold the true ratio of 1; counted
    /// over 200 draws with a margin for the small sample's known optimism.
    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        let mut random = StdRng::seed_from_u64(1);
        let mut sample = || -> Vec<f64> {
            (0..15)
                .map(|_| 100.0 + (0..12).map(|_| random.random_range(-1.0..1.0)).sum::<f64>())
                .collect()
        };
        let held = (0..200).filter(|_| {
            let ratio = Ratio::resampled(&sample(), &sample(), 500).unwrap();
            ratio.low <= 1.0 && 1.0 <= ratio.high
        });
        let held = held.count();
        assert!((176..=200).contains(&held), "{held} of 200");
    }

    #[test]
    fn the_same_figures_give_the_same_interval() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 5.0, 4.0]);
        let ratio = Ratio::of_medians(&a, &b).unwrap();
        assert_eq!(Some(ratio), Ratio::of_medians(&a, &b));
        assert_eq!(ratio.ratio, 1.4);
        assert!(ratio.low < 1.4 && ratio.high > 1.4, "{ratio:?}");
    }

    #[test]
    fn no_ratio_of_nothing_or_to_zero() {
        assert_eq!(Ratio::of_medians(&[], &[1.0]), None);
        assert_eq!(Ratio::of_medians(&[0.0], &[1.0]), None);
        assert_eq!(Ratio::of_medians(&[1.0], &[f64::NAN]), None);
    }
}
