"""The description of the API, and a real server that is asked for whatever it allows, and for what it does not allow.

Owns a server with two accounts: one whose device asks, and a victim. `--described N` says how many requests of each
sort go to each route (2 if not told, the same each time; with the option they differ from run to run).
"""

import base64
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import DeserializationContext, GenerationMode, SerializationContext
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, links, messages, model, routes, wire
from drivefs.protocol.ids import Epoch, InodeId, OpNumber
from tests.backend.server_process import RemoteDevice, ServerProcess

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW = 2
SECRET, SECRET_NAME = b"dear diary, nobody must know", b"the victim's diary"
MOST_GROWTH_KIB = 100 * 2**10
NUMBERS = {"inode", "directory", "parent", "new_parent", "other", "other_parent", "replaced", "share", "device", "link"}
"""Fields that name something: without numbers of things that exist, nothing behind the first look would be tried."""
OF_BATCHES = {"n": lambda number: number, "after": lambda _: [], "watermark": lambda _: 0, "seen": lambda _: None}
"""What a batch has to say of itself, or none of its mutations is looked at."""
ENDS_ACCESS = {routes.LOGOUT, routes.REVOKE}
MARK = "\xff"
"""Begins a generated text that stands for the bytes of its further characters."""


def packed(value: Any) -> Any:
    """A generated body as a message: bytes are bytes, and numbers those that MessagePack has."""
    if isinstance(value, str) and value.startswith(MARK):
        return value.encode("latin-1", "replace")[1:]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-(2**63), min(value, 2**64 - 1))
    if isinstance(value, dict):
        return {packed(name): packed(each) for name, each in value.items()}
    return [packed(each) for each in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any) -> Any:
    """A message as JSON has it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: unpacked(each) for name, each in value.items()}
    return [unpacked(each) for each in value] if isinstance(value, list) else value


@schemathesis.serializer(routes.MSGPACK)
def serialize(_context: SerializationContext, value: Any) -> Any:
    return msgspec.msgpack.encode(packed(value))


@schemathesis.deserializer(routes.MSGPACK)
def deserialize(_context: DeserializationContext, response: schemathesis.Response) -> Any:
    return unpacked(msgspec.msgpack.decode(response.content))


@schemathesis.serializer(routes.FRAMED)
def serialize_blocks(_context: SerializationContext, value: Any) -> Any:
    raw = getattr(value, "data", value)
    return raw if isinstance(raw, bytes) else str(raw).encode("utf-8", "replace")


def octets_marked(schema: Any) -> Any:
    """A description in which the places of bytes have a format of their own, which `Octets` are made for."""
    if isinstance(schema, list):
        return [octets_marked(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return {"type": "string", "format": "octets"}
    return {name: octets_marked(each) for name, each in schema.items()}


def store_file(device: RemoteDevice, name: bytes, content: bytes) -> InodeId:
    """Upload and commit a file of one block."""
    session = device.session
    ranges = device.server.call(
        routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)), messages.IdRangesReply, device.token
    )
    inode = InodeId(ranges.starts[0] + 1)
    device.put(content)
    runs = list(model.cut_runs([model.BlockRef(codec.block_id(content), len(content))]))
    root = session.workspaces[0].root
    create = changes.Create(
        n=OpNumber(1), time_ns=1, inode=inode, parent=root, name=name, kind=model.InodeKind.FILE, mode=0o644
    )
    store = changes.Store(
        n=OpNumber(2),
        time_ns=1,
        inode=inode,
        base=changes.Base(),
        size=len(content),
        runs=[model.run_id(run) for run in runs],
        new_runs=runs,
        mtime_ns=1,
    )
    request = messages.CommitRequest(epoch=session.epoch, watermark=OpNumber(0), mutations=[create, store])
    reply = device.server.call(device.path(routes.COMMIT), request, messages.CommitReply, device.token)
    assert {result.status for result in reply.results} == {changes.Status.OK}
    return inode


class World:
    """A server, who asks it, and whose data nobody else may see."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.device, self.victim = server.log_in(), server.log_in("victim")
        self.mine, self.theirs = (
            store_file(self.device, b"f", b"mine"),
            store_file(self.victim, SECRET_NAME, SECRET),
        )
        made = self._call(routes.CREATE_LINK, links.CreateLinkRequest(inode=self.mine), links.LinkReply)
        self.link_token = made.token
        self.workspaces = [each.session.workspaces[0].workspace for each in (self.device, self.victim)]
        self.known = [self.mine, self.theirs, self.device.session.workspaces[0].root, *self.workspaces]
        self.blocks = [codec.block_id(b"mine"), codec.block_id(SECRET)]
        self.untouched = self.victims_view()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.numbers = itertools.count(10)
        self.http = requests.Session()
        self.http.trust_env = False

    def _call(self, path: str, message: Any, kind: Any) -> Any:
        return self.server.call(path, message, kind, self.device.token)

    def victims_view(self) -> list[bytes]:
        request = messages.ListRequest(directory=self.victim.session.workspaces[0].root)
        asked = messages.BlocksRequest(blocks=[codec.block_id(SECRET)])
        bodies = [(routes.LIST, wire.encode(request)), (routes.GET_BLOCKS, wire.encode(asked))]
        return [
            self.server.exchange("POST", self.victim.path(path), body, self.victim.token)[1] for path, body in bodies
        ]

    def ask(self, case: Any, data: st.DataObject) -> None:
        """One request, whose answer is as described and tells nothing of the victim."""
        if "workspace" in (case.path_parameters or {}):
            case.path_parameters["workspace"] = data.draw(st.sampled_from([*self.workspaces[:1] * 3, *self.workspaces]))
        if "token" in (case.path_parameters or {}) and data.draw(st.booleans()):
            case.path_parameters["token"] = self.link_token
        case.body = self._about_what_is_there(case.body, data)
        if isinstance(case.body, dict) and "wait_seconds" in case.body:
            case.body["wait_seconds"] = 0
        headers = {"authorization": f"Bearer {self.device.token}"}
        reply = case.call(base_url=f"http://127.0.0.1:{self.server.port}", session=self.http, headers=headers)
        self.statuses[case.operation.path, reply.status_code] += 1
        # What is not as its checksum says was damaged on its way: it is to be sent again, which 503 asks for.
        is_damaged = routes.CHECKSUM in (case.headers or {}) and reply.status_code == 503
        case.validate_response(reply, checks=CHECKS[1:] if is_damaged else CHECKS)
        assert SECRET_NAME not in reply.content
        assert SECRET not in reply.content
        if (
            case.operation.path in ENDS_ACCESS
            and self.server.exchange("POST", routes.USAGE, b"", self.device.token)[0] == 401
        ):
            self.device = self.server.log_in()

    def _about_what_is_there(self, value: Any, data: st.DataObject) -> Any:
        if isinstance(value, list):
            return [self._about_what_is_there(each, data) for each in value]
        if not isinstance(value, dict):
            return value
        there = {name: self._about_what_is_there(each, data) for name, each in value.items()}
        for name, each in there.items():
            if name in NUMBERS and isinstance(each, int):
                there[name] = data.draw(st.sampled_from(self.known))
            if name in OF_BATCHES:
                there[name] = OF_BATCHES[name](next(self.numbers))
        return there | ({"epoch": self.device.session.epoch} if "epoch" in there else {})

    def resident_kib(self) -> int:
        assert self.server.process is not None
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("described")
    server = ServerProcess(place / "data", place / "home")
    server.add_user()
    server.add_user("victim")
    server.start()
    try:
        yield World(server)
    finally:
        server.close()


@pytest.mark.fault(56, 57)
def test_whatever_the_description_allows_or_not_is_answered_as_described(
    world: World, pytestconfig: pytest.Config
) -> None:
    count = pytestconfig.getoption("--described")
    octets = st.sampled_from(world.blocks) | st.binary(min_size=32, max_size=32) | st.binary(max_size=24)
    schemathesis.openapi.format("octets", octets.map(lambda raw: MARK + raw.decode("latin-1")))
    document = json.loads(world.server.exchange("GET", routes.DESCRIPTION)[1])
    every = {value for value in vars(routes).values() if isinstance(value, str) and value.startswith("/sync/")}
    assert {*every, routes.HEALTH, links.ADDRESS} <= document["paths"].keys()
    schema = schemathesis.openapi.from_dict(octets_marked(document))
    before = world.resident_kib()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue

            @settings(max_examples=count or FEW, derandomize=not count, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
            def each(case: Any, data: st.DataObject) -> None:
                world.ask(case, data)

            each()
    assert world.resident_kib() - before < MOST_GROWTH_KIB
    assert world.victims_view() == world.untouched
    print(sorted(world.statuses.items()))
    answered = {path for (path, status), _ in world.statuses.items() if status == 200}
    assert len(answered) > len(document["paths"]) / 2, "most are refused at the door: nothing was tried"
