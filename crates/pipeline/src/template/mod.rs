//! The one template language: `{{ }}` in strings and conditions of `when:`. It is minijinja without
//! what would make a pipeline a program: no includes, imports, macros or assignments, bounded work.
//!
//! A string that is exactly one `{{ expression }}` gives the expression's value with its type; any
//! other string gives text, into which lists and objects go as JSON. An undefined name or field is
//! an error that says what is known.
//!
//! A value kept as an artifact can only be passed on whole: to look into it, it has to be resolved before.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use minijinja::value::Value as Dynamic;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, filters, functions, tests as checks};
use serde_json::Value;

use crate::suggest;

use value::{format_value, is_artifact, to_dynamic, to_json};

mod value;

#[cfg(test)]
mod tests;

/// Instructions that one template may take.
const FUEL: u64 = 200_000;

/// Statements that a template may have.
const STATEMENTS: &[&str] = &[
    "if", "elif", "else", "endif", "for", "endfor", "raw", "endraw",
];

/// Names that are functions wherever a template stands.
const FUNCTIONS: &[&str] = &["range"];

/// Why a template is wrong, or could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub message: String,
    /// The text that was at fault.
    pub template: String,
    /// The part of it in bytes, when known.
    pub range: Option<Range<usize>>,
    pub help: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "template `{}`: {}",
            shorten(&self.template),
            self.message
        )?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Evaluates the templates in the strings of `value`; keys of objects are taken as they are.
/// `scope` is an object: the values that templates can name.
///
/// # Errors
/// The first template that is wrong or names what is not in `scope`.
pub fn evaluate(value: &Value, scope: &Value) -> Result<Value, Error> {
    Ok(match value {
        Value::String(text) => evaluate_text(text, scope)?,
        Value::Array(items) => items
            .iter()
            .map(|item| evaluate(item, scope))
            .collect::<Result<_, _>>()?,
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, field)| Ok((key.clone(), evaluate(field, scope)?)))
                .collect::<Result<_, Error>>()?,
        ),
        other => other.clone(),
    })
}

/// Evaluates one string, as [`evaluate`] does.
pub fn evaluate_text(text: &str, scope: &Value) -> Result<Value, Error> {
    if !is_template(text) {
        return Ok(Value::String(text.to_owned()));
    }
    if let Some(expression) = whole_expression(text) {
        return eval_expression(expression, text, scope);
    }
    refuse_statements(text)?;
    let env = environment();
    let template = env
        .template_from_str(text)
        .map_err(|error| syntax_error(&error, text, 0))?;
    let names = collect(template.undeclared_variables(true));
    let context = context(&names, scope, text)?;
    template
        .render(context)
        .map(Value::String)
        .map_err(|error| runtime_error(&error, text, 0, &names, scope))
}

/// Whether an expression is true: null, `false`, 0, and what is empty are not.
///
/// # Errors
/// The expression is wrong or names what is not in `scope`.
pub fn condition(expression: &str, scope: &Value) -> Result<bool, Error> {
    let value = eval_dynamic(expression, expression, scope)?;
    Ok(value.is_true())
}

/// The names that a text's templates mention, without fields: `load` for `{{ load.count }}`.
///
/// # Errors
/// A template that is wrong.
pub fn roots(text: &str) -> Result<BTreeSet<String>, Error> {
    Ok(first_parts(paths(text)?))
}

/// The names that the templates in the strings of `value` mention.
pub fn roots_in(value: &Value) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    match value {
        Value::String(text) => names.extend(roots(text)?),
        Value::Array(items) => {
            for item in items {
                names.extend(roots_in(item)?);
            }
        }
        Value::Object(fields) => {
            for field in fields.values() {
                names.extend(roots_in(field)?);
            }
        }
        _ => {}
    }
    Ok(names)
}

/// The names that an expression of `when:` mentions.
pub fn condition_roots(expression: &str) -> Result<BTreeSet<String>, Error> {
    Ok(first_parts(condition_paths(expression)?))
}

/// Whether a text's templates name a value kept as an artifact, or what lies in one.
pub fn touches_artifact(text: &str, scope: &Value) -> bool {
    let touches = |path: &String| {
        let mut value = Some(scope);
        path.split('.').any(|part| {
            value = value.and_then(|value| value.get(part));
            value.is_some_and(is_artifact)
        })
    };
    paths(text).is_ok_and(|paths| paths.iter().any(touches))
}

/// Whether there is anything to evaluate in a text.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// Whether a text's templates mention `item`: such a text is evaluated for each item, by the worker
/// that has it.
pub fn speaks_of_item(text: &str) -> bool {
    is_template(text) && roots(text).is_ok_and(|roots| roots.contains("item"))
}

/// The expression of a text that is exactly one `{{ expression }}`.
pub fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    environment().compile_expression(inner).ok()?;
    Some(inner)
}

/// What a text's templates mention, with plain fields: `load.count`.
pub(crate) fn paths(text: &str) -> Result<BTreeSet<String>, Error> {
    if !is_template(text) {
        return Ok(BTreeSet::new());
    }
    refuse_statements(text)?;
    check_names(text, 0, text)?;
    let env = environment();
    let template = env
        .template_from_str(text)
        .map_err(|error| syntax_error(&error, text, 0))?;
    Ok(collect(template.undeclared_variables(true)))
}

/// What an expression mentions, with plain fields.
pub(crate) fn condition_paths(expression: &str) -> Result<BTreeSet<String>, Error> {
    check_names(expression, 0, expression)?;
    let env = environment();
    let compiled = env
        .compile_expression(expression)
        .map_err(|error| syntax_error(&error, expression, 0))?;
    Ok(collect(compiled.undeclared_variables(true)))
}

fn collect(names: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    names
        .into_iter()
        .filter(|name| !FUNCTIONS.contains(&name.as_str()))
        .collect()
}

fn first_parts(paths: BTreeSet<String>) -> BTreeSet<String> {
    paths.iter().map(|path| root_of(path).to_owned()).collect()
}

/// The name with which a path begins.
pub(crate) fn root_of(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

fn eval_expression(expression: &str, text: &str, scope: &Value) -> Result<Value, Error> {
    let value = eval_dynamic(expression, text, scope)?;
    to_json(&value).map_err(|error| runtime_error(&error, text, 0, &BTreeSet::new(), scope))
}

fn eval_dynamic(expression: &str, text: &str, scope: &Value) -> Result<Dynamic, Error> {
    let offset = text.find(expression).unwrap_or(0);
    let env = environment();
    let compiled = env
        .compile_expression(expression)
        .map_err(|error| syntax_error(&error, text, offset))?;
    let names = collect(compiled.undeclared_variables(true));
    let context = context(&names, scope, text)?;
    let value = compiled
        .eval(context)
        .map_err(|error| runtime_error(&error, text, offset, &names, scope))?;
    if value.is_undefined() {
        return Err(undefined(text, &names, scope));
    }
    Ok(value)
}

/// The named part of the scope, as minijinja's values.
fn context(names: &BTreeSet<String>, scope: &Value, text: &str) -> Result<Dynamic, Error> {
    let mut pairs = Vec::new();
    for root in names
        .iter()
        .map(|path| root_of(path))
        .collect::<BTreeSet<_>>()
    {
        if let Some(value) = scope.get(root) {
            pairs.push((root.to_owned(), to_dynamic(value)));
        }
    }
    // Reported here rather than by minijinja, which would not say whose content is missing.
    for path in names {
        if let Some(at) = enters_artifact(path, scope) {
            return Err(Error {
                message: format!(
                    "`{at}` is large and kept as an artifact; a template cannot look into it"
                ),
                template: text.to_owned(),
                range: find_word(text, path),
                help: Some(format!("pass it whole, as `{{{{ {at} }}}}`")),
            });
        }
    }
    Ok(Dynamic::from_pairs(pairs))
}

/// The beginning of a path that stands for an artifact, if the path goes on from there.
fn enters_artifact(path: &str, scope: &Value) -> Option<String> {
    let mut value = scope;
    let mut walked = String::new();
    for part in path.split('.') {
        if is_artifact(value) {
            return Some(walked);
        }
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(part);
        value = value.get(part)?;
    }
    None
}

static BASE: LazyLock<Environment<'static>> = LazyLock::new(base_environment);

fn environment<'a>() -> Environment<'a> {
    BASE.clone()
}

macro_rules! filters {
    ($($name:ident),* $(,)?) => {
        /// The filters that templates have.
        pub const FILTERS: &[&str] = &[$(stringify!($name)),*];

        fn add_filters(env: &mut Environment<'static>) {
            $(env.add_filter(stringify!($name), filters::$name);)*
        }
    };
}

filters![
    abs, attr, batch, bool, capitalize, default, dictsort, first, float, int, items, join, last,
    length, lines, list, lower, map, max, min, reject, rejectattr, replace, reverse, round, select,
    selectattr, slice, sort, split, string, sum, title, tojson, trim, unique, upper, zip,
];

fn base_environment() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(FUEL));
    env.set_debug(true);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(format_value);
    add_filters(&mut env);
    env.add_function("range", functions::range);
    env.add_test("defined", checks::is_defined);
    env.add_test("undefined", checks::is_undefined);
    env.add_test("none", checks::is_none);
    env.add_test("string", checks::is_string);
    env.add_test("number", checks::is_number);
    env.add_test("integer", checks::is_integer);
    env.add_test("boolean", checks::is_boolean);
    env.add_test("mapping", checks::is_mapping);
    env.add_test("sequence", checks::is_sequence);
    env.add_test("iterable", checks::is_iterable);
    env.add_test("startingwith", checks::is_startingwith);
    env.add_test("endingwith", checks::is_endingwith);
    env.add_test("eq", checks::is_eq);
    env.add_test("ne", checks::is_ne);
    env.add_test("lt", checks::is_lt);
    env.add_test("le", checks::is_le);
    env.add_test("gt", checks::is_gt);
    env.add_test("ge", checks::is_ge);
    env.add_test("in", checks::is_in);
    env.add_test("odd", checks::is_odd);
    env.add_test("even", checks::is_even);
    env
}

fn refuse_statements(text: &str) -> Result<(), Error> {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let start = from + at;
        from = start + 2;
        let word: String = text[from..]
            .trim_start_matches(['-', '+'])
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if !STATEMENTS.contains(&word.as_str()) {
            return Err(Error {
                message: format!("templates have no `{word}` statement"),
                template: text.to_owned(),
                range: Some(start..from),
                help: Some("use `{{ … }}`, `{% if %}` and `{% for %}`".to_owned()),
            });
        }
    }
    Ok(())
}

/// Finds filters that do not exist, which minijinja would find only when the filter is reached.
fn check_names(text: &str, offset: usize, template: &str) -> Result<(), Error> {
    let expression_only = !is_template(text);
    let mut inside = expression_only;
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '{') if matches!(next, Some('{' | '%')) => inside = true,
            (None, '}' | '%') if next == Some('}') && !expression_only => inside = false,
            (None, '"' | '\'') if inside => quote = Some(c),
            (None, '|') if inside => {
                let rest = &text[at + 1..];
                let start = at + 1 + (rest.len() - rest.trim_start().len());
                let name: String = text[start..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !name.is_empty() && !FILTERS.contains(&name.as_str()) {
                    return Err(Error {
                        message: format!("there is no filter `{name}`"),
                        template: template.to_owned(),
                        range: Some(offset + start..offset + start + name.len()),
                        help: Some(suggest::among(&name, FILTERS.iter().copied(), "filters")),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn syntax_error(error: &minijinja::Error, text: &str, offset: usize) -> Error {
    Error {
        message: describe(error),
        template: text.to_owned(),
        range: error
            .range()
            .map(|r| (r.start + offset).min(text.len())..(r.end + offset).min(text.len())),
        help: None,
    }
}

fn runtime_error(
    error: &minijinja::Error,
    text: &str,
    offset: usize,
    names: &BTreeSet<String>,
    scope: &Value,
) -> Error {
    if error.kind() == ErrorKind::UndefinedError {
        return undefined(text, names, scope);
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Error {
            message: "it takes too much work; a template is not the place for a long loop".into(),
            template: text.to_owned(),
            range: None,
            help: Some("do the work in a stage".to_owned()),
        };
    }
    syntax_error(error, text, offset)
}

/// Says which of the names of a template is not known, and what is.
fn undefined(text: &str, names: &BTreeSet<String>, scope: &Value) -> Error {
    for path in names {
        let mut value = scope;
        let mut walked = String::new();
        for part in path.split('.') {
            let Some(next) = value.get(part) else {
                let known: Vec<&str> = value
                    .as_object()
                    .map(|fields| fields.keys().map(String::as_str).collect())
                    .unwrap_or_default();
                let message = if walked.is_empty() {
                    format!("`{part}` is not known here")
                } else {
                    format!("`{walked}` has no field `{part}`")
                };
                return Error {
                    message,
                    template: text.to_owned(),
                    range: find_word(text, path),
                    help: Some(suggest::among(part, known, "known")),
                };
            };
            if !walked.is_empty() {
                walked.push('.');
            }
            walked.push_str(part);
            value = next;
        }
    }
    Error {
        message: "it gives no value: something in it is undefined".to_owned(),
        template: text.to_owned(),
        range: None,
        help: Some("give a value for that case, as in `{{ load.title | default('none') }}`".into()),
    }
}

/// minijinja's message without its own account of the place.
fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Where a name stands in a text, not as a part of a longer name.
pub(crate) fn find_word(text: &str, word: &str) -> Option<Range<usize>> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).find_map(|at| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let apart = !before.is_some_and(|c| part_of_name(c) || c == '.')
            && !after.is_some_and(part_of_name);
        apart.then(|| at..at + word.len())
    })
}

fn shorten(text: &str) -> String {
    let line = text.trim().replace('\n', " ");
    if line.chars().count() <= 60 {
        return line;
    }
    line.chars().take(59).chain(['…']).collect()
}
