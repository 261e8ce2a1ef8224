//! Tokens to a syntax tree, by recursive descent.
//!
//! ```text
//! query   = [or] ["GROUP" "BY" name]
//! or      = and {("OR" | "||") and}
//! and     = not {("AND" | "&&") not}
//! not     = "NOT" not | "(" or ")" | test
//! test    = name ("=" | "!=" | "<>" | "<" | "<=" | ">" | ">=") literal
//!         | name ["NOT"] "STARTS_WITH" literal
//!         | name ["NOT"] "IN" "(" literal {"," literal} ")"
//!         | name ["NOT"] "BETWEEN" literal "AND" literal
//!         | name "IS" ["NOT"] "NULL"
//! literal = text | ["-" | "+"] number | "TRUE" | "FALSE"
//! ```

use super::ast::{Comparison, Expr, Literal, Name, Operator, Query, Scalar, Test};
use super::lexer::{Token, error_at, tokens};
use crate::Error;

/// Deepest nesting of parentheses and `NOT`: recursion here and below stays this shallow.
const DEPTH_MAX: usize = 64;
/// Most comparisons in one filter, and most literals. SQLite takes 32766 parameters.
const TESTS_MAX: usize = 1_000;
const LITERALS_MAX: usize = 10_000;

/// Words that are no names unless they stand between back-quotes.
const KEYWORDS: &[&str] = &[
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS",
    "NULL",
    "BETWEEN",
    "LIKE",
    "STARTS_WITH",
    "TRUE",
    "FALSE",
    "ORDER",
    "GROUP",
    "BY",
    "LIMIT",
    "HAVING",
    "SELECT",
    "FROM",
    "WHERE",
    "UNION",
    "EXISTS",
    "CASE",
    "REGEXP",
];

/// Parses a filter; an empty one has no expression.
pub(super) fn parse(text: &str) -> Result<Query<'_>, Error> {
    let mut parser = Parser {
        text,
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
        tests: 0,
        literals: 0,
    };
    parser.query()
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
    tests: usize,
    literals: usize,
}

impl<'a> Parser<'a> {
    fn query(&mut self) -> Result<Query<'a>, Error> {
        let expr = match self.peek() {
            Token::End => None,
            _ if self.is_word("GROUP") || self.is_word("ORDER") => None,
            _ => Some(self.or()?),
        };
        let mut group_by = None;
        if self.take_word("GROUP") {
            self.expect_word("BY")?;
            group_by = Some(self.name()?);
            if self.is_symbol(",") {
                return Err(self.error("GROUP BY takes one attribute"));
            }
        }
        if *self.peek() != Token::End {
            return Err(self.trailing());
        }
        Ok(Query {
            text: self.text,
            expr,
            group_by,
        })
    }

    fn or(&mut self) -> Result<Expr, Error> {
        let mut terms = vec![self.and()?];
        while self.take_word("OR") || self.take_symbol("||") {
            terms.push(self.and()?);
        }
        Ok(joined(terms, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, Error> {
        let mut terms = vec![self.not()?];
        while self.take_word("AND") || self.take_symbol("&&") {
            terms.push(self.not()?);
        }
        Ok(joined(terms, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, Error> {
        let negated = self.is_word("NOT");
        if !negated && !self.is_symbol("(") {
            return self.test();
        }
        if self.depth == DEPTH_MAX {
            return Err(self.error(format_args!(
                "parentheses and NOT are nested more than {DEPTH_MAX} deep"
            )));
        }
        self.next += 1;
        self.depth += 1;
        let inner = if negated {
            Expr::Not(Box::new(self.not()?))
        } else {
            if self.is_word("SELECT") {
                return Err(self.error("sub-selects are not supported"));
            }
            let inner = self.or()?;
            self.expect_symbol(")")?;
            inner
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn test(&mut self) -> Result<Expr, Error> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return Err(self.error(format_args!(
                "more than {TESTS_MAX} comparisons: use IN with a list"
            )));
        }
        let name = self.name()?;
        let negated = self.take_word("NOT");
        let at = self.position();
        let test = |operator, negated| {
            Ok(Expr::Test(Test {
                name: name.clone(),
                at,
                operator,
                negated,
            }))
        };
        if self.take_word("IN") {
            return test(Operator::In(self.list()?), negated);
        }
        if self.take_word("STARTS_WITH") {
            return test(Operator::StartsWith(self.literal()?), negated);
        }
        if self.take_word("BETWEEN") {
            let from = self.literal()?;
            self.expect_word("AND")?;
            return test(Operator::Between(from, self.literal()?), negated);
        }
        if negated {
            return Err(self.unexpected("IN, BETWEEN or STARTS_WITH after NOT"));
        }
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            if !self.take_word("NULL") {
                return Err(self.unexpected("IS NULL or IS NOT NULL"));
            }
            return test(Operator::IsNull, negated);
        }
        let comparison = match self.peek() {
            Token::Symbol(symbol) => Comparison::from_symbol(symbol),
            _ => None,
        };
        match comparison {
            Some(comparison) => {
                self.next += 1;
                test(Operator::Compare(comparison, self.literal()?), false)
            }
            None => Err(self.no_operator()),
        }
    }

    fn name(&mut self) -> Result<Name, Error> {
        let at = self.position();
        let text = match self.peek() {
            Token::Quoted(name) => name.clone(),
            Token::Word(word) if !is_keyword(word) => word.clone(),
            Token::Text(_) | Token::Number(_) => {
                return Err(self.unexpected("an attribute name (names stand left, without quotes)"));
            }
            _ => return Err(self.unexpected("an attribute name")),
        };
        self.next += 1;
        if self.is_symbol("(") && !matches!(self.tokens[self.next - 1].1, Token::Quoted(_)) {
            return Err(error_at(self.text, at, "functions are not supported"));
        }
        Ok(Name { at, text })
    }

    fn list(&mut self) -> Result<Vec<Literal>, Error> {
        if !self.take_symbol("(") {
            return Err(self.unexpected("a list, as in IN ('a', 'b')"));
        }
        if self.is_word("SELECT") {
            return Err(self.error("sub-selects are not supported"));
        }
        let mut list = vec![self.literal()?];
        while self.take_symbol(",") {
            list.push(self.literal()?);
        }
        self.expect_symbol(")")?;
        Ok(list)
    }

    fn literal(&mut self) -> Result<Literal, Error> {
        self.literals += 1;
        if self.literals > LITERALS_MAX {
            return Err(self.error(format_args!("more than {LITERALS_MAX} values")));
        }
        let at = self.position();
        let sign = match self.peek() {
            Token::Symbol("-") => "-",
            Token::Symbol("+") => "+",
            _ => "",
        };
        self.next += usize::from(!sign.is_empty());
        let value = match self.peek() {
            Token::Number(number) => match scalar(sign, number) {
                Some(value) => value,
                None => return Err(self.error("the number is out of range")),
            },
            _ if !sign.is_empty() => return Err(self.unexpected("a number after the sign")),
            Token::Text(text) => Scalar::Text(text.clone()),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Scalar::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Scalar::Bool(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => {
                return Err(self.error("nothing equals NULL: use IS NULL or IS NOT NULL"));
            }
            Token::Word(_) | Token::Quoted(_) => {
                return Err(self.unexpected("a value (is it missing its quotes?)"));
            }
            Token::Symbol("(") => {
                return Err(self.unexpected("a single value (lists go with IN)"));
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.next += 1;
        if let Token::Symbol("+" | "-" | "*" | "/" | "%") = self.peek() {
            return Err(self.error("arithmetic is not supported"));
        }
        Ok(Literal { at, value })
    }

    /// What stands where an operator should.
    fn no_operator(&self) -> Error {
        const EXPECTED: &str =
            "a comparison (=, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH, IS NULL)";
        match self.peek() {
            Token::Symbol("==") => self.error("`==` is not an operator: use `=`"),
            Token::Word(word) if word.eq_ignore_ascii_case("LIKE") => {
                self.error("LIKE is not supported: use STARTS_WITH")
            }
            _ => self.unexpected(EXPECTED),
        }
    }

    /// What stands where the filter should end.
    fn trailing(&self) -> Error {
        let word = match self.peek() {
            Token::Word(word) => word.to_ascii_uppercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "ORDER" => self.error(
                "ORDER BY is not supported: the order is open runs first, then by CloseTime and \
                 StartTime, newest first",
            ),
            "LIMIT" => self.error("LIMIT is not supported: use the page size"),
            "HAVING" => self.error("HAVING is not supported"),
            "UNION" => self.error("UNION is not supported"),
            _ => self.unexpected("AND, OR or the end"),
        }
    }

    fn peek(&self) -> &Token {
        // The last token is `End` and is never passed, so there is always one.
        &self.tokens[self.next.min(self.tokens.len() - 1)].1
    }

    fn position(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].0
    }

    fn is_word(&self, keyword: &str) -> bool {
        matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        let found = self.is_word(keyword);
        self.next += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        self.next += usize::from(found);
        found
    }

    fn expect_word(&mut self, keyword: &str) -> Result<(), Error> {
        match self.take_word(keyword) {
            true => Ok(()),
            false => Err(self.unexpected(keyword)),
        }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), Error> {
        match self.take_symbol(symbol) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{symbol}`"))),
        }
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        error_at(self.text, self.position(), message)
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = self.peek().describe();
        self.error(format_args!("expected {expected}, found {found}"))
    }
}

/// One term stands for itself; more become a node.
fn joined(mut terms: Vec<Expr>, node: fn(Vec<Expr>) -> Expr) -> Expr {
    match terms.len() {
        1 => terms.remove(0),
        _ => node(terms),
    }
}

fn is_keyword(word: &str) -> bool {
    KEYWORDS
        .iter()
        .any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// An integer where it fits, else a double.
fn scalar(sign: &str, number: &str) -> Option<Scalar> {
    let signed = format!("{sign}{number}");
    if let Ok(int) = signed.parse() {
        return Some(Scalar::Int(int));
    }
    let double: f64 = signed.parse().ok()?;
    double.is_finite().then_some(Scalar::Double(double))
}

#[cfg(test)]
mod tests;
