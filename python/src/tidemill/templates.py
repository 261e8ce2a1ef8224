"""Strings of `with` that speak of a fan-out's `item`: evaluated for each item, here in the worker,
where the items are. Everything else was evaluated in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import minijinja

from .data import is_list, is_object
from .errors import Invalid

_FUEL = 200_000
"""Instructions that one template may take, as on the engine's side."""


def _finalize(value: Any) -> Any:
    """In text, what is no string is written as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_ENVIRONMENT = minijinja.Environment(
    undefined_behavior="strict",
    auto_escape_callback=lambda _: False,
    finalizer=_finalize,
    fuel=_FUEL,
    pycompat=False,
)


def mentions_item(value: object) -> bool:
    """Whether any string in a JSON value is a template that speaks of `item`."""
    if isinstance(value, str):
        if "item" not in value or not ("{{" in value or "{%" in value):
            return False
        try:
            return "item" in _ENVIRONMENT.undeclared_variables_in_str(value)
        except minijinja.TemplateError:
            # A pipeline's templates were checked: this is text that only looks like one.
            return False
    if is_object(value):
        return any(mentions_item(one) for one in value.values())
    return is_list(value) and any(mentions_item(one) for one in value)


def evaluate(value: object, scope: Mapping[str, Any], where: str = "with") -> Any:
    """The JSON value with its templates evaluated. A string that is exactly one `{{ expression }}`
    gives the expression's value with its type, any other gives text."""
    if isinstance(value, str):
        return _evaluate_text(value, scope, where) if mentions_item(value) else value
    if is_object(value):
        return {key: evaluate(one, scope, f"{where}.{key}") for key, one in value.items()}
    if is_list(value):
        return [evaluate(one, scope, f"{where}[{index}]") for index, one in enumerate(value)]
    return value


def _evaluate_text(text: str, scope: Mapping[str, Any], where: str) -> Any:
    try:
        stripped = text.strip()
        if stripped.startswith("{{") and stripped.endswith("}}"):
            expression = stripped[2:-2].strip()
            try:
                return _ENVIRONMENT.eval_expr(expression, **scope)
            except minijinja.TemplateError as error:
                # Two expressions with text between them are not one; they are rendered below.
                if error.kind != "SyntaxError":
                    raise
        return _ENVIRONMENT.render_str(text, **scope)
    except minijinja.TemplateError as error:
        raise Invalid(f"{where}: the template `{text}` cannot be evaluated: {error}") from None
