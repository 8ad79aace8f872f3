/// What can be wrong with scores or settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OtError {
    /// The entropy weight is zero, negative, not a number, or too small for `f32`.
    #[error("epsilon must be a finite number of at least 1e-6, not {0}")]
    Epsilon(f64),

    /// There is nothing to assign, or nothing to assign to.
    #[error("scores are [{sets}, {samples}, {prototypes}] (sets, samples, prototypes), and none of them may be 0", sets = .0[0], samples = .0[1], prototypes = .0[2])]
    Empty([usize; 3]),

    /// A score is not a number or infinite. As every sample counts for every other, no code can be told then.
    #[error(
        "the scores hold a value that is infinite or not a number: look for it in what they are made of"
    )]
    NotFinite,

    /// The tolerance can never be met, or always is.
    #[error("the tolerance of the marginals must be between 0 and 2, both excluded, not {0}")]
    Tolerance(f64),

    /// The shares of the prototypes do not fit the scores.
    #[error("{given} marginals for {prototypes} prototypes: one each is needed")]
    Marginals {
        /// Marginals handed in.
        given: usize,
        /// Prototypes that the scores have.
        prototypes: usize,
    },

    /// A prototype is to get nothing, less than nothing, or no number.
    #[error(
        "the marginal of prototype {prototype} is {value}, but must be positive and finite, and not 1e38 times smaller than the others; leave out prototypes that are to get nothing"
    )]
    Marginal {
        /// Which one, counted from 0.
        prototype: usize,
        /// What was handed in.
        value: f64,
    },
}
