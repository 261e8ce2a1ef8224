"""`@stage`: a function that pipelines can use by name."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_args, get_origin

from . import convert
from .artifacts import Collection
from .batch import Batch
from .data import encode
from .errors import Invalid, StageError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Outcomes = TypeVar("Outcomes", bound=list[Any] | Awaitable[list[Any]])


class _InputMarker:
    pass


class _LoadedMarker:
    pass


Input = Annotated[T, _InputMarker()]
"""`text: Input[str]` marks the parameter that gets the stage's input, whatever its name."""

Loaded = Annotated[T, _LoadedMarker()]
"""`model: Loaded[Model]` marks the parameter that gets what `@stage(load=...)` has loaded."""

Revision = str | Callable[[Mapping[str, Any]], str | None]
"""What a result depends on besides the input, the parameters and the code: a text, or a function
that finds it for the parameters, the keys of `with`."""

INPUT_NAMES = ("input", "item", "items")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*([.-][A-Za-z0-9_]+)*")


class Drop:
    """As the outcome of an item of an `items=True` stage: it goes no further, and did not fail."""


DROP = Drop()


class Many:
    """As the outcome of an item: several items, whose ids are made from their content."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = list(values)


@dataclass(frozen=True)
class Retry:
    """Tries within one task, before its failure is reported and the pipeline's own retry policy
    applies. In a fan-out each item has these tries to itself. `Invalid` is never tried again."""

    attempts: int = 3
    """In all."""
    delay: timedelta | float = 1.0
    """Before the second; a number is seconds."""
    backoff: float = 2.0
    max_delay: timedelta | float = 60.0

    @property
    def max_delay_s(self) -> float:
        return _seconds(self.max_delay)

    def delay_s(self, attempt: int, error: BaseException) -> float:
        """Seconds to wait after attempt number `attempt`, counted from 1, failed with `error`."""
        delay = min(_seconds(self.delay) * self.backoff ** (attempt - 1), self.max_delay_s)
        if isinstance(error, StageError) and error.retry_after is not None:
            delay = max(delay, error.retry_after.total_seconds())
        return delay


def _seconds(span: timedelta | float) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)


@dataclass(frozen=True)
class _Parameter:
    name: str
    type: Any
    default: Any
    positional: bool

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass
class _Signature:
    taker: _Parameter | None
    """Gets the input."""
    loaded: _Parameter | None
    """Gets what `load` made."""
    rest: dict[str, _Parameter]
    """Keys of `with`."""
    for_load: dict[str, _Parameter]
    """Keys of `with` that `load` takes; the function may take them too."""
    open_ended: bool
    """Whether the function takes other keys."""


class Stage(Generic[P, R]):
    """A function with what a worker needs to know of it. Calling it calls the function."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        items: bool = False,
        concurrency: int = 1,
        pure: bool = False,
        version: str = "",
        revision: Revision | None = None,
        batch: Batch | int | None = None,
        load: Callable[..., Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name: str = name or function.__name__
        self.batch = Batch(batch) if isinstance(batch, int) else batch
        self.load = load
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no name of a stage: use a form such as `text.clean`"
            )
        given = Retry(attempts=retry) if isinstance(retry, int) else retry
        self.retry = given or Retry(attempts=1)
        self.item_retry = given or Retry(attempts=3, delay=0.5, max_delay=30)
        """Of an item of a fan-out: the pipeline's own policy is for whole chunks."""
        if self.retry.attempts < 1 or concurrency < 1:
            raise ValueError(f"stage {self.name}: attempts and concurrency are at least 1")
        self.items = items or self.batch is not None
        """Whether the function takes a list of items."""
        self.concurrency = concurrency
        """Items of a chunk that a mapped stage works on at a time."""
        self.pure = pure
        self.version = version
        self.revision = revision
        if not pure and (version or revision is not None):
            raise ValueError(
                f"stage {self.name}: `version` and `revision` say when a cached result may not be "
                "used again, and only a pure stage is cached: add pure=True"
            )
        self.source_hash = self._hash_source() if pure else ""
        self.is_async = inspect.iscoroutinefunction(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<stage {self.name}>"

    def _hash_source(self) -> str:
        # Now, when the module has just been read: its file may change while the worker runs.
        try:
            return hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        except (OSError, TypeError):
            if self.version:
                return ""
            raise TypeError(
                f"stage {self.name}: its source cannot be read, so a change of it would not be "
                'noticed and old results would be used: add version="1", and change that whenever '
                "the function changes"
            ) from None

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @functools.cached_property
    def _signature(self) -> _Signature:
        """Found when first needed, so that annotations may name what the module defines later."""
        parameters, open_ended = self._parameters(self.function)
        taker: _Parameter | None = None
        loaded: _Parameter | None = None
        rest: dict[str, _Parameter] = {}
        for one in parameters:
            if loaded is None and _is_marked(one.type, _LoadedMarker):
                loaded = one
            elif taker is None and (one.name in INPUT_NAMES or _is_marked(one.type, _InputMarker)):
                taker = one
            else:
                rest[one.name] = one
        if any(one.positional for one in (*rest.values(), *filter(None, [loaded]))):
            raise TypeError(f"stage {self.name}: only its input may be positional-only")
        if self.items and taker is None:
            given = "items=True" if self.batch is None else "batch"
            raise TypeError(
                f"stage {self.name} has {given} and no parameter for them: name one `items`"
            )
        if (self.load is None) != (loaded is None):
            raise TypeError(
                f"stage {self.name}: `load` and a parameter annotated Loaded[...], which gets what "
                "it returns, belong together, and one is missing"
            )
        for_load: list[_Parameter] = []
        if self.load is not None:
            for_load, others = self._parameters(self.load)
            if others or any(one.positional for one in for_load):
                raise TypeError(f"stage {self.name}: `load` takes parameters by their names only")
        found = _Signature(taker, loaded, rest, {one.name: one for one in for_load}, open_ended)
        self._check_key(found)
        return found

    def _parameters(self, function: Callable[..., Any]) -> tuple[list[_Parameter], bool]:
        """Those of a function, and whether it takes others besides."""
        try:
            hints = _hints(function)
        except NameError as error:
            raise TypeError(
                f"stage {self.name}: an annotation cannot be resolved: {error}. Names "
                "in annotations have to exist when the worker starts, not only for type checkers."
            ) from None
        found: list[_Parameter] = []
        open_ended = False
        for one in inspect.signature(function).parameters.values():
            if one.kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(f"stage {self.name} takes *{one.name}: name its parameters")
            if one.kind is inspect.Parameter.VAR_KEYWORD:
                open_ended = True
                continue
            positional = one.kind is inspect.Parameter.POSITIONAL_ONLY
            wanted = hints.get(one.name, Any)
            found.append(_Parameter(one.name, wanted, one.default, positional))
        return found, open_ended

    def _check_key(self, found: _Signature) -> None:
        key = None if self.batch is None else self.batch.key
        if key is None or callable(key) or found.open_ended:
            return
        for name in key:
            if name not in found.rest and name not in found.for_load:
                raise TypeError(
                    f"stage {self.name}: the batch's key names `{name}`, which is no parameter"
                )

    def check(self) -> None:
        """Raises TypeError when the function cannot be a stage."""
        _ = self._signature

    @property
    def takes_input(self) -> bool:
        return self._signature.taker is not None

    @property
    def input_type(self) -> Any:
        taker = self._signature.taker
        return Any if taker is None else taker.type

    @property
    def loaded_name(self) -> str:
        """The parameter that gets what `load` made."""
        loaded = self._signature.loaded
        return "" if loaded is None else loaded.name

    @property
    def item_type(self) -> Any:
        """Where the function takes a list: the type of its elements."""
        wanted = self.input_type
        while get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        arguments = get_args(wanted)
        return arguments[0] if arguments else Any

    def parameters(self, values: object) -> dict[str, Any]:
        """The keyword arguments that `with` gives. Raises `Invalid`."""
        found = self._signature
        known = [*found.rest, *(one for one in found.for_load if one not in found.rest)]
        arguments: dict[str, Any] = {}
        for key, value in self._given(values).items():
            if key in found.rest:
                arguments[key] = convert.from_json(value, found.rest[key].type, f"with.{key}")
            elif found.open_ended:
                arguments[key] = value
            elif key not in found.for_load:
                raise convert.unknown_key(key, known, f"`with` of stage {self.name}")
        self._require(found.rest, arguments)
        return arguments

    def load_parameters(self, values: object) -> tuple[dict[str, Any], bytes]:
        """The keyword arguments of `load`, and what stands for them. Raises `Invalid`."""
        taken = self._signature.for_load
        given = {key: one for key, one in self._given(values).items() if key in taken}
        arguments = {
            key: convert.from_json(value, taken[key].type, f"with.{key}")
            for key, value in given.items()
        }
        self._require(taken, arguments)
        return arguments, encode(given)

    @property
    def defaults(self) -> dict[str, Any]:
        """Of the parameters that have one."""
        found = self._signature.rest
        return {name: one.default for name, one in found.items() if not one.required}

    def _given(self, values: object) -> Mapping[str, Any]:
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            raise Invalid(
                f"`with` of stage {self.name} should be an object, and is {convert.shown(values)}"
            )
        return typing.cast("Mapping[str, Any]", values)

    def _require(self, wanted: Mapping[str, _Parameter], arguments: Mapping[str, Any]) -> None:
        for one in wanted.values():
            if one.required and one.name not in arguments:
                raise Invalid(f"stage {self.name} requires `with.{one.name}`")

    def convert_input(self, value: object) -> Any:
        """The input as the function wants it: a collection stays lazy unless a list is wanted."""
        wanted = self.input_type
        while get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        if isinstance(value, Collection):
            found = typing.cast("Collection[Any]", value)
            if wanted is Any or wanted is Collection:
                return found
            if get_origin(wanted) is Collection:
                return found.of_type(get_args(wanted)[0])
            return convert.from_json(found.values(), wanted, "the input")
        if wanted is Collection or get_origin(wanted) is Collection:
            raise Invalid(
                f"stage {self.name} takes a collection, and its input is {convert.shown(value)}"
            )
        return convert.from_json(value, wanted, "the input")

    def bind(self, value: object, arguments: Mapping[str, Any]) -> Callable[[], R]:
        """The call of the function, with its input already converted."""
        taker = self._signature.taker
        call: Callable[..., R] = self.function
        if taker is None:
            return functools.partial(call, **arguments)
        if taker.positional:
            return functools.partial(call, value, **arguments)
        return functools.partial(call, **{**arguments, taker.name: value})


def _is_marked(wanted: Any, marker: type) -> bool:
    return get_origin(wanted) is Annotated and any(
        isinstance(one, marker) for one in get_args(wanted)[1:]
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function, or of how a class is made."""
    where: Any = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(where, include_extras=True)
    except TypeError:
        return {}  # Such as functools.partial, which has none.


@typing.overload
def stage(function: Callable[P, R], /) -> Stage[P, R]: ...


@typing.overload
def stage(
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    items: bool = False,
    concurrency: int = 1,
    pure: bool = False,
    version: str = "",
    revision: Revision | None = None,
    load: Callable[..., Any] | None = None,
) -> Callable[[Callable[P, R]], Stage[P, R]]: ...


@typing.overload
def stage(
    *,
    batch: Batch | int,
    name: str | None = None,
    retry: Retry | int | None = None,
    pure: bool = False,
    version: str = "",
    revision: Revision | None = None,
    load: Callable[..., Any] | None = None,
) -> Callable[[Callable[P, Outcomes]], Stage[P, Outcomes]]: ...


def stage(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    items: bool = False,
    concurrency: int = 1,
    pure: bool = False,
    version: str = "",
    revision: Revision | None = None,
    batch: Batch | int | None = None,
    load: Callable[..., Any] | None = None,
) -> Any:
    """Makes a function, sync or async, a stage that pipelines use by its name.

    The parameter named `input`, `item` or `items`, or annotated `Input[...]`, gets the stage's
    input; the others are the keys of `with`. What JSON they get is converted to their annotations.

    - `name`: as `uses:` says it; the function's own name otherwise.
    - `retry`: tries within a task, a number or a `Retry`; without it one for a whole task, three
      for each item of a fan-out. In a batch those three are for what passes: `Retryable`,
      `RateLimited`, `OutOfMemory`.
    - `items`: the function takes the items of a chunk as a list and returns a list of as many
      outcomes: a value, an exception for an item that failed, `DROP`, or `Many([...])`.
    - `concurrency`: for a function that a pipeline maps over a collection, items at a time.
    - `pure`: equal input and parameters give an equal result, so that a pipeline may say
      `cache: { ttl: 1h }` of it. A result is used again, in any run, until it is that old, while
      the input, the parameters, the function's own source, `version` and `revision` are the same.
      What the function calls, what it reads from outside itself and the classes that its
      annotations name are no part of its source: change `version` when they change. Results with
      failed items are not used again.
    - `version`: of what the function's source does not show, any text.
    - `revision`: of what else a result depends on, such as a model: a text, or a function that is
      given the parameters, the keys of `with`, for each task and returns one. In a fan-out,
      parameters that speak of `item` are templates there.
    - `batch`: the function takes and returns lists as with `items`, and what is in a list comes
      from any tasks and runs whose parameters are equal: a `Batch`, or how many items it has at
      most. When the function raises, the call is split until the item that fails is alone.
    - `load`: makes what the function needs for long, such as a model, once in a worker. The
      parameter annotated `Loaded[...]` gets it. It may take keys of `with`, and then is called once
      for each of their values. What follows the `yield` of a generator runs when the worker stops.

    A task may run again after a crash, so a stage must leave the same behind when it runs twice.
    """

    def make(function: Callable[P, R]) -> Stage[P, R]:
        return Stage(
            function,
            name=name,
            retry=retry,
            items=items,
            concurrency=concurrency,
            pure=pure,
            version=version,
            revision=revision,
            batch=batch,
            load=load,
        )

    return make if function is None else make(function)
