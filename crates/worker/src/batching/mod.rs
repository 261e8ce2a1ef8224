//! What connects tasks with devices: stages that work on batches, and the devices of a class.

mod devices;
mod execute;
mod hold;
mod stage;
#[cfg(test)]
mod tests;

pub(crate) use devices::Devices;
pub(crate) use hold::hold;
pub(crate) use stage::BatchedStage;
