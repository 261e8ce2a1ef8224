//! A second, slow opinion: evaluates a syntax tree on a run with three-valued logic.

use std::cmp::Ordering;

use super::super::ast::{Comparison, Expr, Literal, Operator, Scalar, Test};
use super::super::{layout, literal};
use super::fixture::Run;
use crate::AttributeValue;

/// True, false or unknown.
pub(super) fn holds(expr: &Expr, run: &Run) -> Option<bool> {
    match expr {
        Expr::Not(inner) => holds(inner, run).map(|value| !value),
        Expr::And(terms) => all(terms.iter().map(|term| holds(term, run))),
        Expr::Or(terms) => {
            let negated = terms
                .iter()
                .map(|term| holds(term, run).map(|value| !value));
            all(negated).map(|value| !value)
        }
        Expr::Test(test) => tested(test, run),
    }
}

fn all(values: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let values: Vec<_> = values.collect();
    match values.contains(&Some(false)) {
        true => Some(false),
        false => values.into_iter().collect::<Option<Vec<_>>>().map(|_| true),
    }
}

fn tested(test: &Test, run: &Run) -> Option<bool> {
    let value = value(run, &test.name.text);
    let result = match &test.operator {
        Operator::IsNull => Some(value.is_none()),
        operator => match test.name.text.as_str() {
            "Tags" => Some(set(elements(value), operator, str::to_owned)),
            "Title" => Some(set(words(value), operator, str::to_lowercase)),
            name => value.map(|value| scalar(name, &value, operator)),
        },
    };
    result.map(|result| result != test.negated)
}

fn elements(value: Option<AttributeValue>) -> Vec<String> {
    match value {
        Some(AttributeValue::KeywordList(elements)) => elements,
        _ => Vec::new(),
    }
}

fn words(value: Option<AttributeValue>) -> Vec<String> {
    match value {
        Some(AttributeValue::Text(text)) => layout::tokens(&text),
        _ => Vec::new(),
    }
}

/// Any of the set's elements is any of the wanted.
fn set(elements: Vec<String>, operator: &Operator, normal: impl Fn(&str) -> String) -> bool {
    let wanted = |literals: &[Literal]| {
        literals.iter().any(|literal| match &literal.value {
            Scalar::Text(text) => elements.contains(&normal(text)),
            other => panic!("{other:?}"),
        })
    };
    match operator {
        Operator::Compare(Comparison::Equal, literal) => wanted(std::slice::from_ref(literal)),
        Operator::Compare(Comparison::NotEqual, literal) => !wanted(std::slice::from_ref(literal)),
        Operator::In(literals) => wanted(literals),
        other => panic!("{other:?}"),
    }
}

fn scalar(name: &str, value: &AttributeValue, operator: &Operator) -> bool {
    let order = |literal: &Literal| compare(name, value, &literal.value);
    match operator {
        Operator::Compare(comparison, literal) => {
            let order = order(literal);
            match comparison {
                Comparison::Equal => order.is_eq(),
                Comparison::NotEqual => order.is_ne(),
                Comparison::Less => order.is_lt(),
                Comparison::LessOrEqual => order.is_le(),
                Comparison::Greater => order.is_gt(),
                Comparison::GreaterOrEqual => order.is_ge(),
            }
        }
        Operator::In(literals) => literals.iter().any(|literal| order(literal).is_eq()),
        Operator::Between(from, to) => order(from).is_ge() && order(to).is_le(),
        Operator::StartsWith(literal) => match (value, &literal.value) {
            (AttributeValue::Keyword(value), Scalar::Text(prefix)) => value.starts_with(prefix),
            other => panic!("{other:?}"),
        },
        Operator::IsNull => unreachable!("answered by the caller"),
    }
}

fn compare(name: &str, value: &AttributeValue, literal: &Scalar) -> Ordering {
    use AttributeValue::*;
    match (value, literal) {
        (Keyword(value), Scalar::Text(literal)) => value.as_str().cmp(literal),
        (Bool(value), Scalar::Bool(literal)) => value.cmp(literal),
        (Int(value), Scalar::Text(text)) if name == "ExecutionStatus" => {
            value.cmp(&literal::status_number(text).unwrap())
        }
        (Int(value) | Datetime(value), Scalar::Int(literal)) => value.cmp(literal),
        (Int(value), Scalar::Double(literal)) => (*value as f64).total_cmp(literal),
        (Double(value), Scalar::Int(literal)) => value.total_cmp(&(*literal as f64)),
        (Double(value), Scalar::Double(literal)) => value.total_cmp(literal),
        other => panic!("{name}: {other:?}"),
    }
}

fn value(run: &Run, name: &str) -> Option<AttributeValue> {
    use AttributeValue::*;
    match name {
        "WorkflowId" => Some(Keyword(run.workflow_id.clone())),
        "RunId" => Some(Keyword(run.run_id_text())),
        "WorkflowType" => Some(Keyword(run.workflow_type.clone())),
        "ExecutionStatus" => Some(Int(run.status)),
        "StartTime" => Some(Datetime(run.start_time)),
        "CloseTime" => run.close_time.map(Datetime),
        "HistoryLength" => run.duration().map(Int),
        "ParentWorkflowId" => run.parent.clone().map(Keyword),
        "TemporalNamespaceDivision" => run.division.clone().map(Keyword),
        name => {
            let found = run.attributes.iter().find(|(other, _)| other == name);
            let value = found.map(|(_, value)| value.clone());
            value.filter(|value| *value != KeywordList(Vec::new()))
        }
    }
}
