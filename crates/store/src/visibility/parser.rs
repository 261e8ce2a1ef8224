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
mod tests {
    use super::*;

    /// Writes a tree with all its parentheses.
    fn show(expr: &Expr) -> String {
        let join = |terms: &[Expr], by: &str| {
            let terms: Vec<String> = terms.iter().map(show).collect();
            format!("({})", terms.join(by))
        };
        match expr {
            Expr::And(terms) => join(terms, " & "),
            Expr::Or(terms) => join(terms, " | "),
            Expr::Not(inner) => format!("!{}", show(inner)),
            Expr::Test(test) => {
                let not = if test.negated { "not " } else { "" };
                let value = |literal: &Literal| format!("{:?}", literal.value);
                let operator = match &test.operator {
                    Operator::Compare(op, literal) => format!("{} {}", op.symbol(), value(literal)),
                    Operator::StartsWith(literal) => format!("starts {}", value(literal)),
                    Operator::In(list) => {
                        let list: Vec<String> = list.iter().map(value).collect();
                        format!("in {}", list.join(","))
                    }
                    Operator::Between(from, to) => format!("between {} {}", value(from), value(to)),
                    Operator::IsNull => "null".to_owned(),
                };
                format!("[{} {not}{operator}]", test.name.text)
            }
        }
    }

    #[test]
    fn filters_parse() {
        let rows = [
            ("A = 1", "[A = Int(1)]"),
            ("`a b` != 'x'", "[a b != Text(\"x\")]"),
            ("`AND` <> 'x'", "[AND != Text(\"x\")]"),
            ("A = -1 or B = +2.5", "([A = Int(-1)] | [B = Double(2.5)])"),
            (
                "A=1 AND B=2 AND C=3",
                "([A = Int(1)] & [B = Int(2)] & [C = Int(3)])",
            ),
            (
                "A=1 OR B=2 AND C=3",
                "([A = Int(1)] | ([B = Int(2)] & [C = Int(3)]))",
            ),
            (
                "(A=1 OR B=2) && C=3",
                "(([A = Int(1)] | [B = Int(2)]) & [C = Int(3)])",
            ),
            ("NOT A=1 AND B=2", "(![A = Int(1)] & [B = Int(2)])"),
            ("not (A=1 || B=2)", "!([A = Int(1)] | [B = Int(2)])"),
            ("not not A=1", "!![A = Int(1)]"),
            ("A in ('x', \"y\")", "[A in Text(\"x\"),Text(\"y\")]"),
            ("A NOT IN (1)", "[A not in Int(1)]"),
            (
                "A between 1 and 2 and B is null",
                "([A between Int(1) Int(2)] & [B null])",
            ),
            ("A NOT BETWEEN 1 AND 2", "[A not between Int(1) Int(2)]"),
            ("A IS NOT NULL", "[A not null]"),
            ("A STARTS_WITH 'x'", "[A starts Text(\"x\")]"),
            ("A not starts_with 'x'", "[A not starts Text(\"x\")]"),
            (
                "A = true and B = FALSE",
                "([A = Bool(true)] & [B = Bool(false)])",
            ),
            (
                "A = 9223372036854775808",
                "[A = Double(9.223372036854776e18)]",
            ),
            (
                "A = -9223372036854775808",
                "[A = Int(-9223372036854775808)]",
            ),
        ];
        for (filter, expected) in rows {
            let query = parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
            assert_eq!(show(&query.expr.unwrap()), expected, "{filter}");
        }
    }

    #[test]
    fn empty_and_grouped_filters_parse() {
        for filter in ["", "  ", "\n\t"] {
            let query = parse(filter).unwrap();
            assert!(query.expr.is_none() && query.group_by.is_none());
        }
        let query = parse("group by ExecutionStatus").unwrap();
        assert!(query.expr.is_none());
        assert_eq!(query.group_by.unwrap().text, "ExecutionStatus");
        let query = parse("A = 1 GROUP BY `B`").unwrap();
        assert!(query.expr.is_some());
        assert_eq!(query.group_by.unwrap().text, "B");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let rows = [
            (
                "A",
                "at position 2: expected a comparison (=, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH, IS NULL), found the end",
            ),
            ("A = ", "at position 5: expected a value, found the end"),
            ("A == 1", "at position 3: `==` is not an operator: use `=`"),
            (
                "A = B",
                "at position 5: expected a value (is it missing its quotes?), found `B`",
            ),
            (
                "'x' = A",
                "at position 1: expected an attribute name (names stand left, without quotes), found text 'x'",
            ),
            (
                "A LIKE 'x%'",
                "at position 3: LIKE is not supported: use STARTS_WITH",
            ),
            (
                "A NOT LIKE 'x%'",
                "at position 7: expected IN, BETWEEN or STARTS_WITH after NOT, found `LIKE`",
            ),
            (
                "lower(A) = 'x'",
                "at position 1: functions are not supported",
            ),
            (
                "A = now()",
                "at position 5: expected a value (is it missing its quotes?), found `now`",
            ),
            (
                "A IN (SELECT 1)",
                "at position 7: sub-selects are not supported",
            ),
            ("(SELECT 1)", "at position 2: sub-selects are not supported"),
            ("A IN ()", "at position 7: expected a value, found `)`"),
            (
                "A IN 1",
                "at position 6: expected a list, as in IN ('a', 'b'), found number 1",
            ),
            (
                "A = (1)",
                "at position 5: expected a single value (lists go with IN), found `(`",
            ),
            (
                "A = NULL",
                "at position 5: nothing equals NULL: use IS NULL or IS NOT NULL",
            ),
            (
                "A IS TRUE",
                "at position 6: expected IS NULL or IS NOT NULL, found `TRUE`",
            ),
            ("A = 1 + 1", "at position 7: arithmetic is not supported"),
            (
                "A = -'x'",
                "at position 6: expected a number after the sign, found text 'x'",
            ),
            ("A = 1e999", "at position 5: the number is out of range"),
            ("(A = 1", "at position 7: expected `)`, found the end"),
            (
                "A = 1)",
                "at position 6: expected AND, OR or the end, found `)`",
            ),
            (
                "A = 1 B = 2",
                "at position 7: expected AND, OR or the end, found `B`",
            ),
            (
                "A = 1 LIMIT 5",
                "at position 7: LIMIT is not supported: use the page size",
            ),
            (
                "A = 1; DROP TABLE executions",
                "at position 6: expected AND, OR or the end, found `;`",
            ),
            ("A = 1 -- x", "at position 7: arithmetic is not supported"),
            (
                "A = 1 GROUP BY B, C",
                "at position 17: GROUP BY takes one attribute",
            ),
            (
                "GROUP BY",
                "at position 9: expected an attribute name, found the end",
            ),
            (
                "A = 1 AND",
                "at position 10: expected an attribute name, found the end",
            ),
            (
                "AND = 1",
                "at position 1: expected an attribute name, found `AND`",
            ),
        ];
        for (filter, expected) in rows {
            match parse(filter) {
                Err(Error::InvalidFilter(message)) => assert_eq!(message, expected, "{filter}"),
                other => panic!("{filter}: {other:?}"),
            }
        }
        for filter in ["ORDER BY StartTime", "A = 1 order by CloseTime desc"] {
            let error = parse(filter).unwrap_err().to_string();
            assert!(error.contains("ORDER BY is not supported"), "{error}");
        }
    }

    #[test]
    fn depth_and_size_are_limited() {
        let nested = |open: &str, close: &str, depth| {
            parse(&format!(
                "{}A = 1{}",
                open.repeat(depth),
                close.repeat(depth)
            ))
            .is_ok()
        };
        assert!(nested("(", ")", DEPTH_MAX));
        assert!(!nested("(", ")", DEPTH_MAX + 1));
        assert!(!nested("(", ")", 100_000));
        assert!(nested("NOT ", "", DEPTH_MAX));
        assert!(!nested("NOT ", "", 50_000));
        assert!(!nested("NOT (", ")", 40));

        let chain = |tests: usize| parse(&vec!["A = 1"; tests].join(" AND ")).is_ok();
        assert!(chain(TESTS_MAX));
        assert!(!chain(TESTS_MAX + 1));
        let list =
            |values: usize| parse(&format!("A IN ({})", vec!["1"; values].join(","))).is_ok();
        assert!(list(LITERALS_MAX));
        assert!(!list(LITERALS_MAX + 1));
        assert!(parse(&" ".repeat(1 << 20)).is_err());
    }
}
