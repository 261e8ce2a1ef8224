//! The list filter: Temporal's `WHERE` dialect, from text to SQL over the executions table
//! (engine contract, section 10).
//!
//! ```text
//! text --lexer--> tokens --parser--> ast --check--> typed filter --compile--> SQL + parameters
//! ```
//!
//! [`list`] and [`count`] run a filter on a connection; [`compile_list`] and [`compile_count`] give
//! the SQL. What a client wrote reaches SQLite only as a bound parameter, never as SQL text. The
//! tables belong to `crate::sqlite`; the indexes that the filters need, and how an attribute is
//! written for them, are in [`layout`], so that writer and reader cannot drift apart.
//!
//! Not here: limits on page sizes, payload encoding, registration of attributes. They belong to
//! the frontend.
//!
//! # Missing values
//!
//! A run without a value matches neither `A = 'x'` nor `A != 'x'`, nor the `NOT` of either, for
//! every scalar type. KeywordList and Text compare sets: `!=` says "none of its elements", which
//! is true of a run that has none. Both are what Temporal's SQL stores answer.

mod ast;
mod check;
mod compile;
mod cursor;
mod execute;
pub mod layout;
mod lexer;
mod literal;
mod parser;
mod plan;
mod run_id;
mod schema;
mod suggest;

#[cfg(test)]
mod tests;

pub use compile::{CountQuery, ListQuery, Sql};
pub use cursor::Position;
pub use execute::{count, list};
pub use plan::{Grouping, Probe, compile_count, compile_list};
pub use schema::{Column, DIVISION, Field, RESERVED_PREFIX, SCHEDULE_ID_PREFIX, Schema, Target};

use crate::Error;

/// Checks a list filter without running it. A filter that passes is a closed expression: it may be
/// put between parentheses and joined to another with `AND`.
pub fn validate(schema: &Schema, filter: &str) -> Result<(), Error> {
    let query = check::check(schema, parser::parse(filter)?)?;
    plan::no_group_by(&query)
}
