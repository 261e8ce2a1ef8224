//! Stages that take time and devices and do nothing: for planning a machine before it is bought, for
//! tests and for measuring what surrounds a model.

mod infer;
mod work;

pub use infer::Infer;
pub use work::Work;
