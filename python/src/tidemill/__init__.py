"""Stages and clients in Python for Tidemill's durable AI pipelines.

    from tidemill import stage

    @stage
    def shout(input: str, marks: int = 1) -> str:
        return input.upper() + "!" * marks

`python -m tidemill worker MODULE` serves it; a pipeline uses it with `uses: python.call` and
`with: { function: shout }`. `Client` starts runs and follows them.
"""

from .artifacts import Artifacts, Collection
from .batch import Batch, BatchStats
from .client import Client, NodeState, Run, RunState, Status, StepState
from .context import Context, context
from .data import Item
from .errors import (
    ArtifactStoreUnavailable,
    Cancelled,
    CompileError,
    EngineUnreachable,
    Invalid,
    OutOfMemory,
    RateLimited,
    Retryable,
    RunFailed,
    StageError,
)
from .pipeline import Compiled, Pipeline, Stages, compile_pipeline
from .stage import DROP, Input, Loaded, Many, Retry, Stage, stage
from .worker import Options, Worker

__all__ = [
    "DROP",
    "ArtifactStoreUnavailable",
    "Artifacts",
    "Batch",
    "BatchStats",
    "Cancelled",
    "Client",
    "Collection",
    "CompileError",
    "Compiled",
    "Context",
    "EngineUnreachable",
    "Input",
    "Invalid",
    "Item",
    "Loaded",
    "Many",
    "NodeState",
    "Options",
    "OutOfMemory",
    "Pipeline",
    "RateLimited",
    "Retry",
    "Retryable",
    "Run",
    "RunFailed",
    "RunState",
    "Stage",
    "StageError",
    "Stages",
    "Status",
    "StepState",
    "Worker",
    "compile_pipeline",
    "context",
    "stage",
]
