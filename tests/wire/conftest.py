"""Wire tests: the official Python SDK and raw protocol calls against a real server.

`pytest tests/wire` spawns the `tidemill` binary on a free port. `TIDEMILL_BIN` names another
binary, `TIDEMILL_ADDRESS` a server that already runs: whatever holds for one server that speaks
the protocol has to hold for any other, so a disagreement is a bug of the server or of the test.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client

import replay
from raw import Wire
from server import SEARCH_ATTRIBUTES, Server

ADDRESS = os.environ.get("TIDEMILL_ADDRESS")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "ours: needs our own server process, or holds us to more than other servers promise",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A server given by its address can neither be restarted nor held to our own promises."""
    if ADDRESS is None:
        return
    foreign = [item for item in items if item.get_closest_marker("ours")]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | None]:
    """The spawned server, or None when `TIDEMILL_ADDRESS` names one that is not ours."""
    if ADDRESS is not None:
        yield None
        return
    ours = Server(tmp_path_factory.mktemp("server"))
    ours.start()
    yield ours
    assert ours.process is not None and ours.process.poll() is None, (
        f"the server ended during the tests:\n{ours.log.read_text()[-4000:]}"
    )
    ours.kill()


@pytest.fixture(scope="session")
def address(server: Server | None) -> str:
    """Where the server under test listens."""
    return ADDRESS if server is None else server.address  # type: ignore[return-value]


@pytest_asyncio.fixture(scope="session")
async def client(address: str) -> Client:
    """An SDK client of namespace `default`, in which the tests' search attributes exist."""
    connected = await Client.connect(address)
    kinds = {
        name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{_screaming(kind)}")
        for name, kind in SEARCH_ATTRIBUTES.items()
    }
    request = AddSearchAttributesRequest(namespace="default", search_attributes=kinds)
    await connected.operator_service.add_search_attributes(request)
    return connected


def _screaming(name: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in name).lstrip("_")


@pytest.fixture
def wire(client: Client) -> Wire:
    """Raw calls in namespace `default`, with a task queue that no other test uses."""
    return Wire(client.workflow_service, "default")


@pytest_asyncio.fixture(autouse=True)
async def replayed(client: Client) -> AsyncIterator[None]:
    """After each test, replay every history that its SDK workers wrote."""
    yield
    await replay.verify(client)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Makes servers that the test may stop, kill and start again."""
    made: list[Server] = []

    def make() -> Server:
        folder = tmp_path / f"server-{len(made)}"
        folder.mkdir()
        made.append(Server(folder))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            one.kill()
