//! What a ratio means beside the noise it was measured in.

use crate::statistics::Ratio;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// B is better, equal, or worse within the bound.
    Told,
    Regression,
    NoVerdict,
}

#[derive(Clone, Debug)]
pub struct Verdict {
    pub outcome: Outcome,
    pub sentence: String,
}

impl Better {
    pub fn word(self) -> &'static str {
        match self {
            Self::Higher => "more",
            Self::Lower => "less",
        }
    }

    /// How much worse B is when it is `ratio` of A; below zero when it is better.
    fn worsening(self, ratio: f64) -> f64 {
        match self {
            Self::Higher => 1.0 - ratio,
            Self::Lower => ratio - 1.0,
        }
    }
}

/// `noise` is how far A is from itself. A difference within it is none, and no verdict either, unless
/// a bound was given that even the worse end of the interval and the noise keep.
pub fn decide(noise: f64, b_of_a: &Ratio, better: Better, bound: Option<f64>) -> Verdict {
    let difference = (b_of_a.ratio - 1.0).abs();
    let worse_end = better.worsening(b_of_a.low).max(better.worsening(b_of_a.high));
    let worsening = better.worsening(b_of_a.ratio);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (noise_percent, difference_percent) = (percent(noise), percent(difference));
    if noise > difference {
        return match bound {
            Some(bound) if noise <= bound && worse_end <= bound => Verdict {
                outcome: Outcome::Told,
                sentence: format!(
                    "A and B cannot be told apart: B differs by {difference_percent}, A from itself \
                     by up to {noise_percent}; B being worse by more than {} would have shown.",
                    percent(bound)
                ),
            },
            _ => Verdict {
                outcome: Outcome::NoVerdict,
                sentence: format!(
                    "No verdict: A differs from itself by up to {noise_percent}, more than the \
                     {difference_percent} between A and B. A quieter machine or more --runs may tell."
                ),
            },
        };
    }
    let against =
        format!("by {difference_percent}; A differs from itself by up to {noise_percent}");
    match bound {
        Some(bound) if worsening > bound => Verdict {
            outcome: Outcome::Regression,
            sentence: format!("B is worse than A {against}. The bound is {}.", percent(bound)),
        },
        _ => {
            let sentence = match difference {
                0.0 => "A and B are equal.".to_owned(),
                _ if worsening > 0.0 => format!("B is worse than A {against}."),
                _ => format!("B is better than A {against}."),
            };
            Verdict { outcome: Outcome::Told, sentence }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(noise: f64, ratio: f64, better: Better, bound: Option<f64>) -> Outcome {
        let ratio = Ratio { ratio, low: ratio - 0.01, high: ratio + 0.01 };
        let verdict = decide(noise, &ratio, better, bound);
        assert!(verdict.sentence.ends_with('.'), "{}", verdict.sentence);
        verdict.outcome
    }

    #[test]
    fn worse_beyond_the_bound_is_a_regression() {
        use Better::{Higher, Lower};
        use Outcome::{Regression, Told};
        assert_eq!(outcome(0.01, 0.90, Higher, Some(0.03)), Regression);
        assert_eq!(outcome(0.01, 1.10, Lower, Some(0.03)), Regression);
        assert_eq!(outcome(0.01, 1.10, Higher, Some(0.03)), Told);
        assert_eq!(outcome(0.01, 0.90, Lower, Some(0.03)), Told);
        assert_eq!(outcome(0.01, 0.98, Higher, Some(0.03)), Told, "worse, and within the bound");
        assert_eq!(outcome(0.01, 0.50, Higher, None), Told, "nothing is bound");
    }

    #[test]
    fn noise_beyond_the_difference_gives_no_verdict() {
        use Better::Higher;
        assert_eq!(outcome(0.11, 0.90, Higher, Some(0.03)), Outcome::NoVerdict);
        assert_eq!(outcome(0.11, 1.10, Higher, None), Outcome::NoVerdict);
        assert_eq!(outcome(0.02, 0.99, Higher, None), Outcome::NoVerdict);
    }

    #[test]
    fn sides_that_are_alike_keep_a_bound_that_is_wider_than_noise_and_interval() {
        use Better::Higher;
        assert_eq!(outcome(0.02, 0.99, Higher, Some(0.03)), Outcome::Told);
        assert_eq!(outcome(0.02, 0.99, Higher, Some(0.015)), Outcome::NoVerdict);
        assert_eq!(outcome(0.04, 0.99, Higher, Some(0.03)), Outcome::NoVerdict);
        let equal = Ratio { ratio: 1.0, low: 1.0, high: 1.0 };
        assert_eq!(decide(0.0, &equal, Higher, None).sentence, "A and B are equal.");
    }
}
