//! Names and types: a syntax tree becomes a typed filter, or an error that says what is wrong.
//!
//! `NOT` is gone afterwards: it is pushed down to the comparisons, where "not smaller" is
//! "greater or equal". With that, a comparison only has to say where it is *true*. A missing value
//! makes both a comparison and its opposite not true, which is SQL's three-valued logic, although
//! each of the two is answered by a plain "there is such a row".

use std::ops::Bound;

use rusqlite::types::Value;

use super::ast::{Comparison, Expr, Literal, Name, Operator, Query, Scalar, Test as Parsed};
use super::lexer::{error_at, shorten};
use super::schema::{Column, Field, Schema, Target};
use super::{layout, literal, run_id, suggest};
use crate::{AttributeType, Error};

/// Most values in a checked filter. A text literal becomes one per token.
const VALUES_MAX: usize = 10_000;

/// A filter with names resolved and literals typed.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) filter: Option<Filter>,
    pub(super) group_by: Option<(Field, String)>,
    /// The division was mentioned, so that hidden runs are the filter's own business.
    pub(super) mentions_division: bool,
}

/// A boolean expression without `NOT`. Nested nodes are of the other kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Test(Test),
}

/// What the value of a field must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Test {
    pub(super) target: Target,
    pub(super) kind: AttributeType,
    pub(super) predicate: Predicate,
}

/// Conditions on a value. For KeywordList and Text, which hold many values, `In` is true when one
/// of them is in the list and `NotIn` when none is; a missing value is a set without elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Predicate {
    Null,
    NotNull,
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Range(Bound<Value>, Bound<Value>),
    /// Below the first bound or above the second.
    Outside(Bound<Value>, Bound<Value>),
}

/// Checks a parsed filter against a schema.
pub(super) fn check(schema: &Schema, query: Query<'_>) -> Result<Checked, Error> {
    let mut checker = Checker {
        schema,
        text: query.text,
        values: 0,
        mentions_division: false,
    };
    let filter = match &query.expr {
        Some(expr) => Some(checker.expr(expr, false)?),
        None => None,
    };
    let group_by = match &query.group_by {
        Some(name) => Some((checker.group_by(name)?, name.text.clone())),
        None => None,
    };
    Ok(Checked {
        filter,
        group_by,
        mentions_division: checker.mentions_division,
    })
}

struct Checker<'a> {
    schema: &'a Schema,
    text: &'a str,
    values: usize,
    mentions_division: bool,
}

impl Checker<'_> {
    fn expr(&mut self, expr: &Expr, negated: bool) -> Result<Filter, Error> {
        let (terms, all) = match expr {
            Expr::Not(inner) => return self.expr(inner, !negated),
            Expr::Test(test) => return Ok(Filter::Test(self.test(test, negated)?)),
            Expr::And(terms) => (terms, !negated),
            Expr::Or(terms) => (terms, negated),
        };
        let mut out = Vec::with_capacity(terms.len());
        for term in terms {
            match self.expr(term, negated)? {
                Filter::All(inner) if all => out.extend(inner),
                Filter::Any(inner) if !all => out.extend(inner),
                Filter::Test(test) if all => push_conjunct(&mut out, test),
                Filter::Test(test) => push_alternative(&mut out, test),
                other => out.push(other),
            }
        }
        Ok(match out.len() {
            1 => out.remove(0),
            _ if all => Filter::All(out),
            _ => Filter::Any(out),
        })
    }

    fn test(&mut self, test: &Parsed, negated: bool) -> Result<Test, Error> {
        let field = self.field(&test.name)?;
        let kind = field.kind;
        let scope = Scope {
            text: self.text,
            name: &test.name.text,
            field: &field,
        };
        scope.check_operator(test)?;
        let positive = scope.predicate(&test.operator)?;
        self.values += match &positive {
            Predicate::In(values) | Predicate::NotIn(values) => values.len(),
            _ => 2,
        };
        if self.values > VALUES_MAX {
            let message = format!("more than {VALUES_MAX} values");
            return Err(error_at(self.text, test.at, message));
        }
        let predicate = match test.negated != negated {
            true => negate(positive),
            false => positive,
        };
        let predicate = match field.target {
            Target::Column(Column::RunId) => on_run_id(predicate),
            _ => predicate,
        };
        Ok(Test {
            target: field.target,
            kind,
            predicate,
        })
    }

    fn field(&mut self, name: &Name) -> Result<Field, Error> {
        let Some(field) = self.schema.resolve(&name.text) else {
            let hint = match suggest::nearest(&name.text, self.schema.names()) {
                Some(near) => format!(": did you mean {near}?"),
                None => String::new(),
            };
            let shown = shorten(&name.text);
            let message = format!("`{shown}` is not a search attribute{hint}");
            return Err(error_at(self.text, name.at, message));
        };
        self.mentions_division |= field.target == Target::Column(Column::Division);
        Ok(field)
    }

    fn group_by(&mut self, name: &Name) -> Result<Field, Error> {
        let field = self.field(name)?;
        match field.target {
            Target::Column(Column::Status | Column::Division) => Ok(field),
            _ => Err(error_at(
                self.text,
                name.at,
                format!(
                    "GROUP BY {} is not supported: only ExecutionStatus and \
                     TemporalNamespaceDivision can be grouped",
                    shorten(&name.text)
                ),
            )),
        }
    }
}

/// Adds a test to a list of alternatives; `A = 1 OR A = 2` becomes one test.
fn push_alternative(alternatives: &mut Vec<Filter>, test: Test) {
    if let Predicate::In(values) = &test.predicate
        && let Some(Filter::Test(last)) = alternatives.last_mut()
        && last.target == test.target
        && let Predicate::In(known) = &mut last.predicate
    {
        known.extend(values.iter().cloned());
        return;
    }
    alternatives.push(Filter::Test(test));
}

/// Adds a test to those that must all hold; `A >= 1 AND A < 2` becomes one range, which an index
/// can answer.
fn push_conjunct(conjuncts: &mut Vec<Filter>, test: Test) {
    use Bound::Unbounded;
    for known in conjuncts.iter_mut() {
        let Filter::Test(known) = known else { continue };
        if known.target != test.target {
            continue;
        }
        let merged = match (&known.predicate, &test.predicate) {
            (Predicate::Range(from, Unbounded), Predicate::Range(Unbounded, to))
            | (Predicate::Range(Unbounded, to), Predicate::Range(from, Unbounded)) => {
                Predicate::Range(from.clone(), to.clone())
            }
            _ => continue,
        };
        known.predicate = merged;
        return;
    }
    conjuncts.push(Filter::Test(test));
}

/// One comparison being checked.
struct Scope<'a> {
    text: &'a str,
    name: &'a str,
    field: &'a Field,
}

impl Scope<'_> {
    fn is_status(&self) -> bool {
        self.field.target == Target::Column(Column::Status)
    }

    /// Which operators a type has (contract section 10.2).
    fn check_operator(&self, test: &Parsed) -> Result<(), Error> {
        use AttributeType::{Bool, Keyword, KeywordList, Text};
        let kind = self.field.kind;
        let (written, allowed) = match &test.operator {
            Operator::IsNull => return Ok(()),
            Operator::Compare(Comparison::Equal | Comparison::NotEqual, _) => return Ok(()),
            Operator::Compare(comparison, _) => {
                (comparison.symbol(), !matches!(kind, KeywordList | Text))
            }
            Operator::In(_) => ("IN", kind != Text),
            // Statuses are compared as numbers: they have no beginning.
            Operator::StartsWith(_) => ("STARTS_WITH", kind == Keyword && !self.is_status()),
            Operator::Between(..) => ("BETWEEN", !matches!(kind, Bool | KeywordList | Text)),
        };
        if allowed {
            return Ok(());
        }
        let operators = match kind {
            _ if self.is_status() => "=, !=, <, <=, >, >=, IN, BETWEEN, IS NULL",
            Keyword => "=, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH, IS NULL",
            KeywordList => "=, !=, IN, IS NULL",
            Text => "=, !=, IS NULL",
            Bool => "=, !=, <, <=, >, >=, IN, IS NULL",
            _ => "=, !=, <, <=, >, >=, IN, BETWEEN, IS NULL",
        };
        let (name, kind) = (shorten(self.name), type_name(kind));
        let message = format!("{written} does not work on {name} ({kind}): it has {operators}");
        Err(error_at(self.text, test.at, message))
    }

    fn predicate(&self, operator: &Operator) -> Result<Predicate, Error> {
        use Bound::{Excluded, Included, Unbounded};
        let (comparison, literal) = match operator {
            Operator::IsNull => return Ok(Predicate::Null),
            Operator::In(list) => {
                let values: Result<_, _> = list.iter().map(|literal| self.value(literal)).collect();
                return Ok(Predicate::In(values?));
            }
            Operator::Between(from, to) => {
                let (from, to) = (self.value(from)?, self.value(to)?);
                return Ok(Predicate::Range(Included(from), Included(to)));
            }
            Operator::StartsWith(literal) => return self.prefix(literal),
            Operator::Compare(comparison, literal) => (comparison, literal),
        };
        if self.field.kind == AttributeType::Text {
            let tokens = self.tokens(literal)?;
            return Ok(match comparison {
                Comparison::Equal => Predicate::In(tokens),
                _ => Predicate::NotIn(tokens),
            });
        }
        let value = self.value(literal)?;
        Ok(match comparison {
            Comparison::Equal => Predicate::In(vec![value]),
            Comparison::NotEqual => Predicate::NotIn(vec![value]),
            Comparison::Less => Predicate::Range(Unbounded, Excluded(value)),
            Comparison::LessOrEqual => Predicate::Range(Unbounded, Included(value)),
            Comparison::Greater => Predicate::Range(Excluded(value), Unbounded),
            Comparison::GreaterOrEqual => Predicate::Range(Included(value), Unbounded),
        })
    }

    /// The texts with a prefix are a range: from the prefix to the first text after all of them.
    fn prefix(&self, literal: &Literal) -> Result<Predicate, Error> {
        let Value::Text(prefix) = self.value(literal)? else {
            return Err(self.mismatch(literal));
        };
        let end = match after_prefix(&prefix) {
            Some(end) => Bound::Excluded(Value::Text(end)),
            None => Bound::Unbounded,
        };
        Ok(Predicate::Range(Bound::Included(Value::Text(prefix)), end))
    }

    fn tokens(&self, literal: &Literal) -> Result<Vec<Value>, Error> {
        let Scalar::Text(text) = &literal.value else {
            return Err(self.mismatch(literal));
        };
        let tokens = layout::tokens(text);
        if tokens.is_empty() {
            let message = "the text has no letter and no digit to search for";
            return Err(error_at(self.text, literal.at, message));
        }
        Ok(tokens.into_iter().map(Value::Text).collect())
    }

    /// A literal as a value of the field's type.
    fn value(&self, literal: &Literal) -> Result<Value, Error> {
        use AttributeType::*;
        if self.is_status() {
            return self.status(literal);
        }
        let is_duration = self.field.target == Target::Column(Column::ExecutionDuration);
        Ok(match (self.field.kind, &literal.value) {
            (Int, Scalar::Text(text)) if is_duration => match literal::duration(text) {
                Some(nanos) => Value::Integer(nanos),
                None => {
                    let message = format!(
                        "'{}' is not a duration: write '1h30m', '01:30:00' or nanoseconds",
                        shorten(text)
                    );
                    return Err(error_at(self.text, literal.at, message));
                }
            },
            (Int, Scalar::Double(_)) if is_duration => return Err(self.mismatch(literal)),
            (Int | Double, Scalar::Int(value)) => Value::Integer(*value),
            (Int | Double, Scalar::Double(value)) => Value::Real(*value),
            (Bool, Scalar::Bool(value)) => Value::Integer(i64::from(*value)),
            (Datetime, Scalar::Int(nanos)) => Value::Integer(*nanos),
            (Datetime, Scalar::Text(text)) => match literal::datetime(text) {
                Some(nanos) => Value::Integer(nanos),
                None => {
                    let message = format!(
                        "'{}' is not a time: write '2026-01-31T12:00:00Z' or nanoseconds since 1970",
                        shorten(text)
                    );
                    return Err(error_at(self.text, literal.at, message));
                }
            },
            (Keyword | KeywordList | Text, Scalar::Text(text)) => {
                Value::Text(format!("{}{text}", self.field.literal_prefix))
            }
            _ => return Err(self.mismatch(literal)),
        })
    }

    fn status(&self, literal: &Literal) -> Result<Value, Error> {
        let number = match &literal.value {
            Scalar::Int(number) => literal::is_status(*number).then_some(*number),
            Scalar::Text(name) => literal::status_number(name),
            _ => return Err(self.mismatch(literal)),
        };
        if let Some(number) = number {
            return Ok(Value::Integer(number));
        }
        let hint = match &literal.value {
            Scalar::Text(name) => suggest::nearest(name, literal::status_names()),
            _ => None,
        };
        let hint = match hint {
            Some(near) => format!("did you mean '{near}'?"),
            None => {
                let names: Vec<_> = literal::status_names().collect();
                format!("there are {}", names.join(", "))
            }
        };
        let message = format!("{} is no execution status: {hint}", show(&literal.value));
        Err(error_at(self.text, literal.at, message))
    }

    fn mismatch(&self, literal: &Literal) -> Error {
        let kind = self.field.kind;
        let expected = match kind {
            AttributeType::Bool => "true or false, without quotes",
            AttributeType::Int | AttributeType::Double => "a number, without quotes",
            AttributeType::Datetime => "a time such as '2026-01-31T12:00:00Z'",
            _ => "text between quotes",
        };
        let message = format!(
            "{} is {}, not {}: write {expected}",
            shorten(self.name),
            type_name(kind),
            show(&literal.value),
        );
        error_at(self.text, literal.at, message)
    }
}

fn show(value: &Scalar) -> String {
    match value {
        Scalar::Text(text) => format!("'{}'", shorten(text)),
        Scalar::Int(int) => int.to_string(),
        Scalar::Double(double) => double.to_string(),
        Scalar::Bool(bool) => bool.to_string(),
    }
}

fn type_name(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Bool => "Bool",
        AttributeType::Int => "Int",
        AttributeType::Double => "Double",
        AttributeType::Datetime => "Datetime",
        AttributeType::Keyword => "Keyword",
        AttributeType::KeywordList => "KeywordList",
        AttributeType::Text => "Text",
    }
}

/// The predicate that is true where this one is false.
fn negate(predicate: Predicate) -> Predicate {
    use Bound::Unbounded;
    let flip = |bound| match bound {
        Bound::Included(value) => Bound::Excluded(value),
        Bound::Excluded(value) => Bound::Included(value),
        Bound::Unbounded => Bound::Unbounded,
    };
    match predicate {
        Predicate::Null => Predicate::NotNull,
        Predicate::NotNull => Predicate::Null,
        Predicate::In(values) => Predicate::NotIn(values),
        Predicate::NotIn(values) => Predicate::In(values),
        Predicate::Range(Unbounded, Unbounded) => Predicate::In(Vec::new()),
        Predicate::Range(from, Unbounded) => Predicate::Range(Unbounded, flip(from)),
        Predicate::Range(Unbounded, to) => Predicate::Range(flip(to), Unbounded),
        Predicate::Range(from, to) => Predicate::Outside(flip(from), flip(to)),
        Predicate::Outside(below, above) => Predicate::Range(flip(below), flip(above)),
    }
}

/// The first text that is larger than every text with the prefix; `None` when there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let kept = prefix.trim_end_matches(char::MAX);
    let last = kept.chars().next_back()?;
    let next = match last {
        // The code points between are no characters.
        '\u{d7ff}' => '\u{e000}',
        _ => char::from_u32(u32::from(last) + 1)?,
    };
    let mut end = kept[..kept.len() - last.len_utf8()].to_owned();
    end.push(next);
    Some(end)
}

/// A predicate on the text of a run id as one on its bytes.
fn on_run_id(predicate: Predicate) -> Predicate {
    let ids = |values: Vec<Value>| {
        let id = |value| match value {
            Value::Text(text) => run_id::parse(&text).map(|id| Value::Blob(id.to_vec())),
            _ => None,
        };
        values.into_iter().filter_map(id).collect()
    };
    let blob = |bound: Bound<[u8; 16]>| bound.map(|id| Value::Blob(id.to_vec()));
    let none = Predicate::In(Vec::new());
    match predicate {
        Predicate::In(values) => Predicate::In(ids(values)),
        Predicate::NotIn(values) => Predicate::NotIn(ids(values)),
        Predicate::Range(from, to) => match run_id::lower(text(&from)) {
            Some(from) => Predicate::Range(blob(from), blob(run_id::upper(text(&to)))),
            None => none,
        },
        Predicate::Outside(below, above) => {
            let below = run_id::upper(text(&below));
            match (below, run_id::lower(text(&above))) {
                (Bound::Unbounded, _) => Predicate::NotNull,
                (below, None) => Predicate::Range(Bound::Unbounded, blob(below)),
                (below, Some(above)) => Predicate::Outside(blob(below), blob(above)),
            }
        }
        Predicate::Null | Predicate::NotNull => predicate,
    }
}

fn text(bound: &Bound<Value>) -> Bound<&str> {
    bound.as_ref().map(|value| match value {
        Value::Text(text) => text.as_str(),
        _ => "",
    })
}

#[cfg(test)]
mod tests;
