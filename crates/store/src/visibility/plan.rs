//! How a filter is carried out.
//!
//! - *Walk*: go along an index and test each row. Right when many rows fit, because a list
//!   stops when its page is full.
//! - *Drive*: take the runs that fit one condition from that condition's index, test the rest on
//!   them and sort. Right when few rows fit that condition.
//!
//! SQLite cannot tell the two apart without statistics of its own, so the choice is made here, by
//! counting how many runs each condition has, up to a limit: a look into one index.

use rusqlite::types::Value;

use super::check::{Checked, Filter, Predicate, Test, check};
use super::compile::{Compiler, CountQuery, ListQuery, Sql};
use super::cursor::{self, Position};
use super::layout::SORT_TIME;
use super::parser::parse;
use super::schema::{Column, Schema, Target};
use crate::{AttributeType, Error};

/// Most runs that a list fetches one by one and sorts. Above, a walk meets enough of them soon.
const LIST_DRIVE_MAX: i64 = 50_000;
/// Most runs that a count fetches one by one. A count has no page that fills early: a walk always
/// goes through the whole namespace.
const COUNT_DRIVE_MAX: i64 = 150_000;
/// Most alternatives that are united into one set. SQLite limits them to 500.
const UNION_MAX: usize = 50;

const COLUMNS: &str = "e.run, e.run_id, e.workflow_id, e.status, e.close_time, e.history_length, e.info, e.start_time";

/// What a count is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    Status,
    Division,
}

/// Counts the rows of a statement: what the choice of a plan rests on.
pub type Probe<'a> = &'a mut dyn FnMut(&Sql) -> Result<i64, Error>;

/// Compiles a list of runs: open ones first, then closed ones by close time; each by start time,
/// newest first. `namespace` is the number that stands in the tables.
///
/// `probe` runs a statement that yields one integer, if the filter leaves a choice of plans.
///
/// # Errors
/// [`Error::InvalidFilter`], [`Error::InvalidPageToken`], and what `probe` returns.
pub fn compile_list(
    schema: &Schema,
    namespace: i64,
    filter: &str,
    page_size: usize,
    page: Option<&[u8]>,
    probe: Probe<'_>,
) -> Result<ListQuery, Error> {
    let checked = check(schema, parse(filter)?)?;
    no_group_by(&checked)?;
    let binding = cursor::binding(namespace, filter);
    let after = match page {
        Some(token) => Some(cursor::decode(binding, token)?),
        None => None,
    };
    let page_size = page_size.max(1);
    let limit = i64::try_from(page_size.saturating_add(1)).unwrap_or(i64::MAX);
    let compiler = Compiler { namespace };
    let conjuncts = conjuncts(checked);
    let order = format!(" ORDER BY {SORT_TIME} DESC, e.start_time DESC, e.run DESC");

    let mut sql = Sql::default();
    let driver = driver(compiler, &conjuncts, LIST_DRIVE_MAX, probe)?;
    match &driver {
        Some(driver) => {
            // The rows that are sorted are narrow: what the page returns is fetched after.
            sql.push("SELECT ")
                .push(COLUMNS)
                .push(" FROM (SELECT e.run AS run FROM ");
            from(&mut sql, driver);
        }
        None => {
            sql.push("SELECT ").push(COLUMNS);
            sql.push(" FROM executions AS e INDEXED BY executions_list");
        }
    }
    sql.push(" WHERE e.namespace = ")
        .param(Value::Integer(namespace));
    compiler.and_all(&mut sql, rest(&conjuncts, driver.as_ref()));
    if let Some(after) = after {
        keyset(&mut sql, after);
    }
    sql.push(&order)
        .push(" LIMIT ")
        .param(Value::Integer(limit));
    if driver.is_some() {
        sql.push(") AS page CROSS JOIN executions AS e ON e.run = page.run")
            .push(&order);
    }
    Ok(ListQuery {
        sql,
        page_size,
        binding,
    })
}

/// Compiles a count of runs, which may be grouped. See [`compile_list`].
pub fn compile_count(
    schema: &Schema,
    namespace: i64,
    filter: &str,
    probe: Probe<'_>,
) -> Result<CountQuery, Error> {
    let checked = check(schema, parse(filter)?)?;
    let group_by = match &checked.group_by {
        None => None,
        Some((field, _)) if field.target == Target::Column(Column::Division) => {
            Some(Grouping::Division)
        }
        Some(_) => Some(Grouping::Status),
    };
    let group = match group_by {
        None => "",
        Some(Grouping::Status) => "e.status",
        Some(Grouping::Division) => "e.division",
    };
    let compiler = Compiler { namespace };
    let conjuncts = conjuncts(checked);

    let mut sql = Sql::default();
    sql.push("SELECT ").push(group);
    sql.push(if group.is_empty() { "" } else { ", " })
        .push("count(*) FROM ");
    let covering = covering_index(&conjuncts);
    let driver = match covering {
        Some(_) => None,
        None => driver(compiler, &conjuncts, COUNT_DRIVE_MAX, probe)?,
    };
    match &driver {
        Some(driver) => from(&mut sql, driver),
        None => {
            sql.push("executions AS e INDEXED BY ");
            sql.push(covering.unwrap_or("executions_list"));
        }
    }
    sql.push(" WHERE e.namespace = ")
        .param(Value::Integer(namespace));
    compiler.and_all(&mut sql, rest(&conjuncts, driver.as_ref()));
    if !group.is_empty() {
        sql.push(" GROUP BY ")
            .push(group)
            .push(" ORDER BY ")
            .push(group);
    }
    Ok(CountQuery { sql, group_by })
}

/// A list has no groups.
pub(super) fn no_group_by(checked: &Checked) -> Result<(), Error> {
    match &checked.group_by {
        None => Ok(()),
        Some((_, name)) => Err(Error::InvalidFilter(format!(
            "GROUP BY {name} is only supported when counting"
        ))),
    }
}

/// The conditions that must all hold. The server's own runs are hidden from filters that do not
/// speak of them.
fn conjuncts(checked: Checked) -> Vec<Filter> {
    let mut conjuncts = match checked.filter {
        None => Vec::new(),
        Some(Filter::All(terms)) => terms,
        Some(other) => vec![other],
    };
    if !checked.mentions_division {
        conjuncts.push(Filter::Test(Test {
            target: Target::Column(Column::Division),
            kind: AttributeType::Keyword,
            predicate: Predicate::Null,
        }));
    }
    conjuncts
}

/// A condition whose runs are few, as sets that hold these runs.
struct Driver {
    sets: Vec<Sql>,
    /// The conditions that the sets answer wholly.
    answers: Vec<usize>,
}

/// The condition with the fewest runs, if there is one with at most `runs_max`.
fn driver(
    compiler: Compiler,
    conjuncts: &[Filter],
    runs_max: i64,
    probe: Probe<'_>,
) -> Result<Option<Driver>, Error> {
    let mut best = None;
    let mut fewest = runs_max + 1;
    for (at, filter) in conjuncts.iter().enumerate() {
        let Some((mut sets, exact)) = sets(compiler, filter) else {
            continue;
        };
        let mut answers = Vec::new();
        if exact {
            answers.push(at);
        }
        // What else the set's index holds is tested before any row is read.
        if let ([set], Some(held)) = (&mut sets[..], held_beside(filter)) {
            let beside = conjuncts.iter().enumerate().filter(|(other, filter)| {
                *other != at && tests_only(std::slice::from_ref(*filter), held)
            });
            let (places, beside): (Vec<usize>, Vec<&Filter>) = beside.unzip();
            compiler.and_all(set, beside.into_iter());
            answers.extend(places);
        }
        // Runs in several sets count several times here: without a look at duplicates, SQLite
        // stops at the limit.
        let mut sql = Sql::default();
        sql.push("SELECT count(*) FROM (SELECT 1 FROM (");
        union(&mut sql, &sets, " UNION ALL ");
        sql.push(") LIMIT ").param(Value::Integer(fewest)).push(")");
        let count = probe(&sql)?;
        if count < fewest {
            fewest = count;
            best = Some(Driver { sets, answers });
        }
    }
    Ok(best)
}

/// Sets that hold the runs of a condition, and whether they hold no others.
fn sets(compiler: Compiler, filter: &Filter) -> Option<(Vec<Sql>, bool)> {
    let mut tests = Vec::new();
    let exact = collect(filter, &mut tests)?;
    let sets: Option<Vec<Sql>> = tests.into_iter().map(|test| compiler.set(test)).collect();
    Some((sets?, exact))
}

fn union(sql: &mut Sql, sets: &[Sql], by: &str) {
    for (at, set) in sets.iter().enumerate() {
        sql.push(if at == 0 { "" } else { by }).append(set);
    }
}

/// Collects tests whose sets together hold all rows that a filter can be true for.
fn collect<'a>(filter: &'a Filter, tests: &mut Vec<&'a Test>) -> Option<bool> {
    match filter {
        Filter::Test(test) if tests.len() < UNION_MAX => {
            tests.push(test);
            Some(true)
        }
        Filter::Test(_) => None,
        Filter::Any(terms) => {
            let mut exact = true;
            for term in terms {
                exact &= collect(term, tests)?;
            }
            Some(exact)
        }
        // One conjunct bounds the others. An equality bounds best.
        Filter::All(terms) => {
            let test = terms.iter().find_map(|term| match term {
                Filter::Test(test) if matches!(test.predicate, Predicate::In(_)) => Some(test),
                _ => None,
            })?;
            tests.push(test);
            (tests.len() <= UNION_MAX).then_some(false)
        }
    }
}

/// `CROSS JOIN` keeps SQLite from turning the two around.
fn from(sql: &mut Sql, driver: &Driver) {
    sql.push("(");
    union(sql, &driver.sets, " UNION ");
    sql.push(") AS d CROSS JOIN executions AS e ON e.run = d.run");
}

/// The conditions that are still to be tested.
fn rest<'a>(
    conjuncts: &'a [Filter],
    driver: Option<&'a Driver>,
) -> impl Iterator<Item = &'a Filter> {
    let answers = driver.map_or(&[][..], |driver| &driver.answers);
    let rest = conjuncts.iter().enumerate();
    rest.filter(move |(at, _)| !answers.contains(at))
        .map(|(_, filter)| filter)
}

/// Rows after a position. The first condition is what the index can seek to.
fn keyset(sql: &mut Sql, after: Position) {
    let [sort, start, run] = [after.sort_time, after.start_time, after.run].map(Value::Integer);
    sql.push(" AND ")
        .push(SORT_TIME)
        .push(" <= ")
        .param(sort.clone());
    sql.push(" AND (").push(SORT_TIME).push(" < ").param(sort);
    sql.push(" OR e.start_time < ").param(start.clone());
    sql.push(" OR (e.start_time = ").param(start);
    sql.push(" AND e.run < ").param(run).push("))");
}

/// What the status and the type index hold.
const STATUS_INDEX: &[Column] = &[Column::Status, Column::Division];
const TYPE_INDEX: &[Column] = &[Column::WorkflowType, Column::Status, Column::Division];

/// The columns in the index that lists the runs of a condition, if there are others than its own.
fn held_beside(filter: &Filter) -> Option<&'static [Column]> {
    match filter {
        Filter::Test(test) if test.target == Target::Column(Column::WorkflowType) => {
            Some(TYPE_INDEX)
        }
        Filter::Test(test) if test.target == Target::Column(Column::Status) => Some(STATUS_INDEX),
        _ => None,
    }
}

/// The index that holds all that a count tests, if there is one: no row is read then.
fn covering_index(conjuncts: &[Filter]) -> Option<&'static str> {
    if tests_only(conjuncts, STATUS_INDEX) {
        return Some("executions_status");
    }
    let by_type = conjuncts.iter().any(|filter| {
        matches!(filter, Filter::Test(test)
            if test.target == Target::Column(Column::WorkflowType)
                && matches!(test.predicate, Predicate::In(_) | Predicate::Range(..)))
    });
    (by_type && tests_only(conjuncts, TYPE_INDEX)).then_some("executions_type")
}

fn tests_only(filters: &[Filter], columns: &[Column]) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::All(terms) | Filter::Any(terms) => tests_only(terms, columns),
        Filter::Test(test) => match test.target {
            Target::Column(column) => columns.contains(&column),
            Target::Attribute(_) => false,
        },
    })
}
