//! A device that takes time and memory as it was told to, and fails when it was told to.
