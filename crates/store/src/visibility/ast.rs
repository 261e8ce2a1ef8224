//! What a filter says, before names and types are looked at.

/// A parsed filter. `text` is kept for the places in error messages.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) text: &'a str,
    pub(super) expr: Option<Expr>,
    pub(super) group_by: Option<Name>,
}

/// A name and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Name {
    pub(super) at: usize,
    pub(super) text: String,
}

/// A boolean expression. Chains of one connective are one node, so that the tree is no deeper than
/// the parentheses and `NOT`s of the text, which the parser limits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Test(Test),
}

/// One comparison of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Test {
    pub(super) name: Name,
    /// Where the operator stands.
    pub(super) at: usize,
    pub(super) operator: Operator,
    /// `NOT IN`, `NOT BETWEEN`, `NOT STARTS_WITH`, `IS NOT NULL`.
    pub(super) negated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operator {
    Compare(Comparison, Literal),
    StartsWith(Literal),
    In(Vec<Literal>),
    Between(Literal, Literal),
    IsNull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(super) fn from_symbol(symbol: &str) -> Option<Self> {
        Some(match symbol {
            "=" => Comparison::Equal,
            "!=" | "<>" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        })
    }

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

/// A literal and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    pub(super) at: usize,
    pub(super) value: Scalar,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Text(String),
    Int(i64),
    Double(f64),
    Bool(bool),
}
