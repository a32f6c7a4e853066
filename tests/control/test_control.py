"""The control socket end to end: the blocking client in a thread against the server on trio."""

import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import outcome
import pytest
import trio
import trio.testing

from drivefs.control import addresses, client, errors, frames, server


async def echo(arguments: dict[str, Any], report: server.Report) -> Any:
    return arguments


async def count(arguments: dict[str, Any], report: server.Report) -> Any:
    for number in range(arguments["to"]):
        await report({"number": number})
    return "done"


async def refuse(arguments: dict[str, Any], report: server.Report) -> Any:
    raise errors.Refused("busy", "the drive is busy")


async def break_down(arguments: dict[str, Any], report: server.Report) -> Any:
    raise ZeroDivisionError


async def stay_silent(arguments: dict[str, Any], report: server.Report) -> Any:
    await trio.sleep_forever()


HANDLERS: Mapping[str, server.Handler] = {
    "echo": echo,
    "count": count,
    "refuse": refuse,
    "break_down": break_down,
    "stay_silent": stay_silent,
}


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, server.listen(directory), HANDLERS, nursery)
        yield
        nursery.cancel_scope.cancel()


async def ask(directory: Path, command: str, **options: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: client.call(directory, command, **options))


def run(directory: Path, command: str, **options: Any) -> Any:
    async def main() -> outcome.Outcome[Any]:
        async with serving(directory):
            # Carried past the nursery, which would wrap an exception in a group.
            return await outcome.acapture(ask, directory, command, **options)

    return trio.run(main).unwrap()


def test_arguments_reach_the_handler_and_its_result_comes_back(tmp_path: Path) -> None:
    sent = {"path": b"\xff/x", "size": 2**40, "deep": [{"a": None}]}
    assert run(tmp_path, "echo", arguments=sent) == sent


def test_progress_arrives_in_order_before_the_result(tmp_path: Path) -> None:
    heard: list[Any] = []
    assert run(tmp_path, "count", arguments={"to": 100}, on_progress=heard.append) == "done"
    assert heard == [{"number": number} for number in range(100)]


def test_refusal_keeps_its_kind_and_sentence(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="the drive is busy") as refusal:
        run(tmp_path, "refuse")
    assert refusal.value.kind == "busy"


def test_unknown_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="another version"):
        run(tmp_path, "fly")


def test_handler_that_breaks_down_leaves_the_server_working(tmp_path: Path) -> None:
    async def main() -> Any:
        async with serving(tmp_path):
            with pytest.raises(errors.Refused, match="its log"):
                await ask(tmp_path, "break_down")
            return await ask(tmp_path, "echo", arguments={"still": "here"})

    assert trio.run(main) == {"still": "here"}


def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(errors.NoAnswer, match="said nothing"):
        run(tmp_path, "stay_silent", silence_seconds=0.05)


@pytest.mark.parametrize("sent", [b"", b"GE", b"GET / HTTP/1.0\r\n\r\n", frames.HEADER.pack(3) + b"\xc1\xc1\xc1"])
def test_stray_bytes_do_not_stop_the_server(tmp_path: Path, sent: bytes) -> None:
    def stray() -> None:
        with socket.socket(socket.AF_UNIX) as connection, addresses.short_address(tmp_path) as address:
            connection.connect(address)
            connection.sendall(sent)

    async def main() -> Any:
        async with serving(tmp_path):
            await trio.to_thread.run_sync(stray)
            return await ask(tmp_path, "echo")

    assert trio.run(main) == {}


def test_socket_and_its_directory_are_for_the_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "profile"

    async def main() -> None:
        server.listen(directory).socket.close()

    trio.run(main)
    assert stat.S_IMODE((directory / addresses.SOCKET_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    assert run(directory, "echo", arguments={"a": 1}) == {"a": 1}


def test_socket_left_by_a_dead_mount_means_not_running(tmp_path: Path) -> None:
    async def main() -> None:
        server.listen(tmp_path).socket.close()

    trio.run(main)
    assert (tmp_path / addresses.SOCKET_NAME).exists()
    with pytest.raises(errors.NotRunning):
        client.call(tmp_path, "echo")
    assert run(tmp_path, "echo") == {}


def test_no_socket_means_not_running(tmp_path: Path) -> None:
    with pytest.raises(errors.NotRunning):
        client.call(tmp_path / "nowhere", "echo")


def test_a_mount_that_dies_while_it_answers_is_no_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, addresses.short_address(tmp_path) as address:
        listening.bind(address)
        listening.listen()

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, accept_and_close, listening)
                with pytest.raises(errors.NoAnswer, match="broke off"):
                    await ask(tmp_path, "echo")

        trio.run(main)


def accept_and_close(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    connection.recv(2**16)
    connection.close()


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(errors.NotRunning):
            client.call(tmp_path, "echo")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_client_that_says_nothing_does_not_keep_its_place() -> None:
    async def main() -> None:
        ours, _theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(60):
            await server._answer(cast(trio.SocketStream, ours), {})

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_longer_than_any_frame_of_ours_is_not_waited_for() -> None:
    assert frames.body_length(frames.HEADER.pack(frames.MAX_FRAME_BYTES)) == frames.MAX_FRAME_BYTES
    with pytest.raises(ValueError, match="not a drivefs command"):
        frames.body_length(frames.HEADER.pack(frames.MAX_FRAME_BYTES + 1))
