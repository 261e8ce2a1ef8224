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
    let list = |values: usize| parse(&format!("A IN ({})", vec!["1"; values].join(","))).is_ok();
    assert!(list(LITERALS_MAX));
    assert!(!list(LITERALS_MAX + 1));
    assert!(parse(&" ".repeat(1 << 20)).is_err());
}
