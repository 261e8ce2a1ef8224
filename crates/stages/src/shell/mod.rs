//! `shell.run`: one command in a subprocess.

mod group;
mod run;

pub use run::Run;
