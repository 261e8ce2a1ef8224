"""Workers tell about themselves by heartbeat and can be listed."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import WorkerStatus
from temporalio.api.worker.v1 import WorkerHeartbeat, WorkerHostInfo
from temporalio.api.workflowservice import v1 as api

from errors import INVALID, NOT_FOUND, refused
from raw import Wire, fresh
from waiting import eventually

RUNNING = WorkerStatus.WORKER_STATUS_RUNNING


def beat(wire: Wire, key: str, identity: str) -> WorkerHeartbeat:
    now = Timestamp()
    now.GetCurrentTime()
    return WorkerHeartbeat(
        worker_instance_key=key,
        worker_identity=identity,
        task_queue=wire.task_queue,
        sdk_name="wire",
        sdk_version="1.0.0",
        status=RUNNING,
        start_time=now,
        heartbeat_time=now,
        host_info=WorkerHostInfo(host_name="host", process_id="1"),
    )


async def record(wire: Wire, *beats: WorkerHeartbeat) -> None:
    request = api.RecordWorkerHeartbeatRequest(
        namespace=wire.namespace, identity="wire", worker_heartbeat=beats
    )
    await wire.service.record_worker_heartbeat(request)


async def keys(wire: Wire, query: str) -> set[str]:
    request = api.ListWorkersRequest(namespace=wire.namespace, query=query)
    listed = await wire.service.list_workers(request)
    return {one.worker_heartbeat.worker_instance_key for one in listed.workers_info}


async def test_workers_are_listed_by_their_fields(wire: Wire) -> None:
    first, second = fresh("key"), fresh("key")
    identities = {first: fresh("identity-a"), second: fresh("identity-b")}
    await record(wire, *(beat(wire, key, identity) for key, identity in identities.items()))
    mine = f"TaskQueue = '{wire.task_queue}'"
    await eventually(lambda: keys(wire, mine), lambda found: found == {first, second})
    filters = {
        f"WorkerInstanceKey = '{first}'": {first},
        f"WorkerIdentity = '{identities[second]}'": {second},
        f"{mine} AND WorkerIdentity STARTS_WITH 'identity-a'": {first},
        f"{mine} AND SdkName = 'wire' AND SdkVersion = '1.0.0'": {first, second},
        f"{mine} AND HostName != 'host'": set(),
        f"{mine} AND (WorkerInstanceKey = '{first}' OR WorkerInstanceKey = '{second}')": {
            first,
            second,
        },
    }
    assert {query: await keys(wire, query) for query in filters} == filters
    with refused(INVALID):
        await keys(wire, "TaskQueue =")


async def test_last_heartbeat_is_what_describe_shows(wire: Wire) -> None:
    key = fresh("key")
    await record(wire, beat(wire, key, "first"))
    newer = beat(wire, key, "second")
    newer.current_sticky_cache_size = 3
    await record(wire, newer)
    request = api.DescribeWorkerRequest(namespace=wire.namespace, worker_instance_key=key)
    described = await wire.service.describe_worker(request)
    shown = described.worker_info.worker_heartbeat
    assert (shown.worker_identity, shown.current_sticky_cache_size) == ("second", 3)


async def test_unknown_worker_is_not_found(wire: Wire) -> None:
    request = api.DescribeWorkerRequest(
        namespace=wire.namespace, worker_instance_key=fresh("nobody")
    )
    with refused(NOT_FOUND):
        await wire.service.describe_worker(request)


async def test_shut_down_worker_is_shown_so(wire: Wire) -> None:
    key = fresh("key")
    await record(wire, beat(wire, key, "leaving"))
    last = beat(wire, key, "leaving")
    last.status = WorkerStatus.WORKER_STATUS_SHUTTING_DOWN
    request = api.ShutdownWorkerRequest(
        namespace=wire.namespace,
        identity="leaving",
        worker_instance_key=key,
        sticky_task_queue=fresh("sticky"),
        worker_heartbeat=last,
    )
    await wire.service.shutdown_worker(request)
    running = f"WorkerInstanceKey = '{key}' AND WorkerStatus = 'WORKER_STATUS_RUNNING'"
    await eventually(lambda: keys(wire, running), lambda found: not found)
