/// What can be wrong with the settings of this crate.
///
/// Shapes that do not fit are programming errors and panic instead.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OtError {
    /// The entropy weight is zero, negative, not a number, or too small for `f32`.
    #[error("epsilon must be a finite number of at least 1e-6, not {0}")]
    Epsilon(f64),
}
