"""JSON to the types that a function's annotations name, and back.

Only the standard library's types: primitives, lists, tuples, sets, mappings, unions, literals,
enums, data classes, typed dictionaries, dates and paths. An annotation that is none of these takes
the JSON as it is.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin, is_typeddict

from .data import is_list, is_object
from .errors import Invalid

_LISTS: tuple[Any, ...] = (list, Sequence, MutableSequence, Iterable, typing.Iterator)
_MAPPINGS: tuple[Any, ...] = (dict, Mapping, MutableMapping)
# Python 3.10 has neither.
_OPTIONAL_KEYS = [
    getattr(typing, one) for one in ("NotRequired", "Required") if hasattr(typing, one)
]


def from_json(value: object, wanted: Any, where: str) -> Any:
    """`value` as `wanted`. `where` names it in errors, such as `with.limit`.

    Raises `Invalid` when it is of another type; numbers are not made from strings.
    """
    if wanted in (Any, object, inspect.Parameter.empty):
        return value
    if wanted is None or wanted is types.NoneType:
        if value is None:
            return None
        raise _mismatch(value, "null", where)
    primitive = _primitive(value, wanted, where)
    if primitive is not _NOT_PRIMITIVE:
        return primitive
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is typing.Annotated or origin in _OPTIONAL_KEYS:
        return from_json(value, arguments[0], where)
    if origin in (typing.Union, types.UnionType):
        return _union(value, arguments, where)
    if origin is typing.Literal:
        return _literal(value, arguments, where)
    if wanted in _LISTS or origin in _LISTS:
        return _list(value, arguments, where)
    if wanted is tuple or origin is tuple:
        return _tuple(value, arguments, where)
    if wanted in (set, frozenset) or origin in (set, frozenset):
        kind: Any = origin or wanted
        return kind(_list(value, arguments, where))
    if wanted in _MAPPINGS or origin in _MAPPINGS:
        return _mapping(value, arguments, where)
    return _class(value, wanted, where)


def to_json(value: object, where: str) -> Any:
    """`value` as JSON. Raises `Invalid` for what JSON has no form for."""
    if isinstance(value, enum.Enum):
        return to_json(value.value, where)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise Invalid(f"{where} is too large a number for JSON: return it as a string")
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise Invalid(f"{where} is {value}, which JSON cannot hold: return null instead")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: to_json(getattr(value, one.name), f"{where}.{one.name}")
            for one in dataclasses.fields(value)
        }
    if is_object(value):
        return {_key(key, where): to_json(one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        members = typing.cast("Iterable[object]", value)
        return [to_json(one, f"{where}[{index}]") for index, one in enumerate(members)]
    return _scalar_to_json(value, where)


def unknown_key(key: str, known: Sequence[str], what: str) -> Invalid:
    """The error for a key that nothing takes, with the nearest one that something does."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    listing = ", ".join(f"`{one}`" for one in known) or "nothing"
    return Invalid(f"{what} has no `{key}`; it takes {listing}.{hint}")


_NOT_PRIMITIVE = object()


def _primitive(value: object, wanted: Any, where: str) -> Any:
    if wanted is bool:
        if isinstance(value, bool):
            return value
        raise _mismatch(value, "true or false", where)
    if wanted is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise _mismatch(value, "an integer", where)
    if wanted is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise _mismatch(value, "a number", where)
    if wanted is str:
        if isinstance(value, str):
            return value
        raise _mismatch(value, "a string", where)
    if wanted is bytes:
        return _parsed(
            value, "base64 text", lambda text: base64.b64decode(text, validate=True), where
        )
    if wanted in (Path, PurePath):
        return _parsed(value, "a path", wanted, where)
    if wanted is datetime:
        return _parsed(value, "a time such as 2030-01-31T08:00:00+00:00", _datetime, where)
    if wanted is date:
        return _parsed(value, "a date such as 2030-01-31", date.fromisoformat, where)
    if wanted is timedelta:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return timedelta(seconds=value)
        raise _mismatch(value, "a number of seconds", where)
    return _NOT_PRIMITIVE


def _datetime(text: str) -> datetime:
    # Python 3.10 does not read the suffix Z.
    return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)


def _parsed(value: object, what: str, parse: Callable[[str], Any], where: str) -> Any:
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError:
            pass
    raise _mismatch(value, what, where)


def _union(value: object, options: tuple[Any, ...], where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    rest = [one for one in options if one is not types.NoneType]
    refusals: list[Invalid] = []
    for option in rest:
        try:
            return from_json(value, option, where)
        except Invalid as refusal:
            refusals.append(refusal)
    if len(refusals) == 1:
        raise refusals[0]
    raise _mismatch(value, " or ".join(type_name(one) for one in options), where)


def _literal(value: object, options: tuple[Any, ...], where: str) -> Any:
    for option in options:
        # True is equal to 1 in Python, not in JSON.
        if option == value and type(option) is type(value):
            return option
    listing = ", ".join(repr(one) for one in options)
    raise _mismatch(value, f"one of {listing}", where)


def _list(value: object, arguments: tuple[Any, ...], where: str) -> list[Any]:
    if not is_list(value):
        raise _mismatch(value, "a list", where)
    member: Any = arguments[0] if arguments else Any
    return [from_json(one, member, f"{where}[{index}]") for index, one in enumerate(value)]


def _tuple(value: object, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not arguments or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return tuple(_list(value, arguments[:1], where))
    if not is_list(value) or len(value) != len(arguments):
        raise _mismatch(value, f"a list of {len(arguments)}", where)
    pairs = zip(value, arguments, strict=True)
    return tuple(from_json(one, kind, f"{where}[{i}]") for i, (one, kind) in enumerate(pairs))


def _mapping(value: object, arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    if not is_object(value):
        raise _mismatch(value, "an object", where)
    member: Any = arguments[1] if len(arguments) == 2 else Any
    return {key: from_json(one, member, f"{where}.{key}") for key, one in value.items()}


def _class(value: object, wanted: Any, where: str) -> Any:
    if is_typeddict(wanted):
        return _typed_dict(value, wanted, where)
    if isinstance(wanted, type):
        if issubclass(wanted, enum.Enum):
            return _enum(value, wanted, where)
        if dataclasses.is_dataclass(typing.cast("Any", wanted)):
            return _data_class(value, wanted, where)
    return value


def _enum(value: object, wanted: type[enum.Enum], where: str) -> enum.Enum:
    for member in wanted:
        if member.value == value and type(member.value) is type(value):
            return member
    listing = ", ".join(repr(member.value) for member in wanted)
    raise _mismatch(value, f"one of {listing}", where)


def _data_class(value: object, wanted: Any, where: str) -> Any:
    """Fields that the class lacks are passed over: a record may have more than a stage looks at."""
    if not is_object(value):
        raise _mismatch(value, f"an object ({type_name(wanted)})", where)
    hints = typing.get_type_hints(wanted, include_extras=True)
    fields: dict[str, Any] = {}
    for one in dataclasses.fields(wanted):
        if not one.init:
            continue
        if one.name in value:
            fields[one.name] = from_json(value[one.name], hints[one.name], f"{where}.{one.name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise Invalid(f"{where} lacks `{one.name}`, which {type_name(wanted)} requires")
    return wanted(**fields)


def _typed_dict(value: object, wanted: Any, where: str) -> Any:
    if not is_object(value):
        raise _mismatch(value, f"an object ({type_name(wanted)})", where)
    hints = typing.get_type_hints(wanted, include_extras=True)
    for name in sorted(wanted.__required_keys__):
        if name not in value:
            raise Invalid(f"{where} lacks `{name}`, which {type_name(wanted)} requires")
    return {
        key: from_json(one, hints[key], f"{where}.{key}") if key in hints else one
        for key, one in value.items()
    }


def _key(key: object, where: str) -> str:
    if isinstance(key, str):
        return key
    raise Invalid(f"{where} has the key {key!r}: keys of JSON objects are strings")


def _scalar_to_json(value: object, where: str) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise Invalid(
        f"{where} is of type {type(value).__name__}, which has no form in JSON: return "
        "numbers, strings, lists, dictionaries or data classes"
    )


def _mismatch(value: object, wanted: str, where: str) -> Invalid:
    return Invalid(f"{where} should be {wanted}, and is {shown(value)}")


def shown(value: object) -> str:
    """A JSON value in a few words, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return (
            f"the string {value!r}" if len(value) <= 40 else f"a string of {len(value)} characters"
        )
    if is_list(value):
        return f"a list of {len(value)}"
    return "an object"


def type_name(wanted: Any) -> str:
    if wanted is types.NoneType:
        return "null"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    if wanted in names:
        return names[wanted]
    return getattr(wanted, "__name__", None) or str(wanted)
