//! The interpreter against a real engine, with scripted stages: what they do stands in their `with`.

mod affinity;
mod approve;
mod call;
mod fan_out;
mod histories;
mod long;
mod placement;
mod plans;
#[expect(
    dead_code,
    reason = "the interpreter calls activities by name, not by these constants"
)]
mod script;
mod session;
mod walk;
