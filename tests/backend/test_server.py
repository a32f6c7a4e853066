"""`drivefs-server` as a process: starting, administrating, stopping, being killed, being told nonsense."""

import json
import os
import random
import resource
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backend import cli, people
from backend.api import control
from drivefs import __version__
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import DeviceId
from tests.backend.server_process import PASSWORD, ServerProcess, TlsServerProcess
from tests.support.mounts import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    found = ServerProcess(tmp_path / "data", tmp_path / "config")
    yield found
    found.close()


@pytest.fixture
def running(server: ServerProcess) -> ServerProcess:
    assert server.add_user().returncode == 0
    server.start()
    return server


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(2**18)


def test_users_are_made_and_listed_before_and_while_it_runs(server: ServerProcess) -> None:
    assert server.add_user("ann").returncode == 0
    server.start()
    assert server.add_user("bob").returncode == 0
    server.log_in()
    again = server.add_user("bob")
    assert again.returncode == 1
    assert "already" in again.stderr
    assert "Nothing was changed" in again.stderr
    unfit = server.add_user("ä" * 128)
    assert (unfit.returncode, "255 bytes" in unfit.stderr) == (1, True), "no command of a device takes such a name"
    listed = server.on_data("user", "list", "--json")
    assert [(user["name"], user["devices"]) for user in json.loads(listed.stdout)] == [("ann", 1), ("bob", 0)]
    assert listed.stderr == ""
    server.stop()
    assert "bob" in server.on_data("user", "list").stdout


def test_devices_are_listed_and_revoked_before_and_while_it_runs(running: ServerProcess) -> None:
    device = running.log_in()
    poll = device.begin_poll()
    listed = json.loads(running.on_data("device", "list", "--json").stdout)
    assert [(each["user"], each["name"], each["revoked"]) for each in listed] == [("ann", "laptop", None)]
    assert running.on_data("device", "revoke", "ann", "phone").returncode == 1
    revoked = running.on_data("device", "revoke", "ann", "laptop")
    assert (revoked.returncode, revoked.stderr) == (0, "")
    reply = poll.getresponse()
    assert wire.decode(reply.read(), messages.Problem).code == "device_revoked"
    poll.close()
    running.log_in()
    running.stop()
    assert running.on_data("device", "revoke", "ann", "laptop").returncode == 0
    listed = json.loads(running.on_data("device", "list", "--user", "ann", "--json").stdout)
    assert [each["revoked"] is not None for each in listed] == [True, True]
    assert "revoked" in running.on_data("device", "list").stdout


def test_users_are_removed_and_restored_before_and_while_it_runs(running: ServerProcess) -> None:
    running.log_in()
    unasked = running.on_data("user", "remove", "ann")
    assert (unasked.returncode, "--yes" in unasked.stderr) == (1, True)
    removed = json.loads(running.on_data("user", "remove", "ann", "--yes", "--json").stdout)
    assert (removed["name"], removed["devices"], removed["shares"], removed["left_shares"]) == ("ann", 1, {}, 0)
    running.stop()
    listed = json.loads(running.on_data("user", "list", "--json").stdout)
    assert [each["kept_until"] for each in listed] == [removed["kept_until"]]
    assert "removed" in running.add_user("ann").stderr
    assert "ann is back" in running.on_data("user", "restore", "ann").stdout
    assert running.on_data("user", "restore", "ann").returncode == 1


def test_it_prints_one_line_and_stops_at_once_though_polls_are_open(running: ServerProcess) -> None:
    devices = [running.log_in() for _ in range(3)]
    polls = [device.begin_poll() for device in devices]
    # What is still on its way to a server that stops is not answered.
    wait_until("all polls have come", lambda: sum(each.is_online for each in devices[0].devices()) == 3)
    code, printed, complaints = running.stop()
    assert code == 0
    assert complaints == ""
    assert printed.count("\n") == 1
    assert f"http://127.0.0.1:{running.port}" in printed
    for poll in polls:
        reply = poll.getresponse()
        assert wire.decode(reply.read(), messages.ChangesReply).pages == []
        poll.close()


@pytest.mark.fault(38)
def test_what_was_acknowledged_survives_a_kill(running: ServerProcess) -> None:
    device = running.log_in()
    device.put(noise(1), b"small one", b"small two")
    running.kill()
    running.start()
    assert device.missing(noise(1), b"small one", b"small two", b"never sent") == 1
    assert running.on_data("check").returncode == 0


def test_a_second_server_on_the_same_data_is_refused(running: ServerProcess) -> None:
    second = running.on_data("run", "--listen", f"127.0.0.1:{running.port + 1}")
    assert second.returncode == 1
    assert "Another drivefs-server uses" in second.stderr
    assert running.is_healthy()


def test_a_taken_address_is_said_in_plain_words(running: ServerProcess, tmp_path: Path) -> None:
    other = ServerProcess(tmp_path / "other", tmp_path / "config")
    refused = other.on_data("run", "--listen", f"127.0.0.1:{running.port}")
    assert refused.returncode == 1
    assert "Cannot listen" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_check_finds_damage_while_it_runs_and_when_it_does_not(running: ServerProcess) -> None:
    device = running.log_in()
    device.put(noise(1))
    device.put(noise(2))
    sound = running.on_data("check", "--json")
    assert sound.returncode == 0
    shown = json.loads(sound.stdout)
    assert (shown["sound"], shown["blocks"], shown["bytes"], shown["findings"]) == (True, 2, 2 * 2**18, [])
    assert not any(shown["objects"].values())
    path = next(path for path in (running.data / "blocks" / "objects").rglob("*") if path.is_file())
    path.write_bytes(bytes(path.stat().st_size))
    damaged = running.on_data("check", "--json")
    assert damaged.returncode == 3
    assert len(json.loads(damaged.stdout)["findings"]) == 1
    running.stop()
    told = running.on_data("check")
    assert told.returncode == 3
    assert "1 damaged or missing" in told.stdout
    mended = running.on_data("check", "--repair")  # nothing needs that block
    assert mended.returncode == 4
    assert "1 blocks could not be read and were needed by nothing" in mended.stdout
    assert len(list((running.data / "blocks" / "quarantine").rglob("*/*/*"))) == 1
    assert running.on_data("check").returncode == 0


def test_a_table_that_is_damaged_is_told_in_words_and_not_mended_by_a_guess(server: ServerProcess) -> None:
    assert server.add_user().returncode == 0
    path = server.data / "metadata.db"
    with closing(sqlite3.connect(path)) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'users'")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    told = [server.on_data("check"), server.on_data("check", "--repair")]
    assert [each.returncode for each in told] == [3, 5]
    assert all("takes a backup" in each.stdout for each in told)
    for words in (["user", "list"], ["maintain"], ["backup", str(server.data.parent / "copy")]):
        refused = server.on_data(*words)
        assert (refused.returncode, "database" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)


def test_the_data_without_its_master_key_is_refused(running: ServerProcess) -> None:
    running.log_in().put(noise(1))
    running.stop()
    key = running.home / "drivefs-server" / "master.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    right = key.read_text()
    key.unlink()
    for words in (["check"], ["user", "list"], ["run", "--listen", f"127.0.0.1:{running.port}"]):
        refused = running.on_data(*words)
        assert refused.returncode == 1
        assert "master key" in refused.stderr
        assert "--master-key" in refused.stderr
    assert not key.exists()
    key.write_text(os.urandom(32).hex())
    foreign = running.on_data("check")
    assert foreign.returncode == 1
    assert "sealed with the master key" in foreign.stderr
    elsewhere = running.home / "elsewhere.key"
    elsewhere.write_text(right)
    assert running.on_data("check", "--master-key", str(elsewhere)).returncode == 0


def test_a_data_directory_is_its_owners_alone(running: ServerProcess) -> None:
    assert stat.S_IMODE(running.data.stat().st_mode) == 0o700
    for path in running.data.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_directory_without_data_is_not_made_by_asking(server: ServerProcess) -> None:
    for words in (["user", "list"], ["check"]):
        refused = server.on_data(*words)
        assert refused.returncode == 1
        assert "no drivefs data" in refused.stderr
    assert not server.data.exists()


@pytest.mark.parametrize("name", ["", " ann", "ann\n", "a\0b".replace("\0", "\x01"), "x" * 257])
def test_names_that_cannot_be_are_refused(server: ServerProcess, name: str) -> None:
    refused = server.add_user(name)
    assert refused.returncode == 1
    assert "user name" in refused.stderr


def test_what_is_no_text_is_refused_in_a_sentence(server: ServerProcess) -> None:
    name = os.fsdecode(b"caf\xe9")
    for words in (("user", "add", name), ("user", "set", name, "--quota", "1G"), ("device", "revoke", name, name)):
        refused = server.on_data(*words)
        assert (refused.returncode, "not UTF-8" in refused.stderr) == (2, True), refused.stderr
    assert not server.data.exists()


def test_a_damaged_database_is_told_of_in_a_sentence(server: ServerProcess) -> None:
    assert server.add_user().returncode == 0
    with closing(sqlite3.connect(server.data / "metadata.db")) as database:
        database.execute("DROP TABLE blocks")
        database.commit()
    refused = server.on_data("check")
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False), refused.stderr
    assert "drivefs-server restore" in refused.stderr


def test_a_user_is_given_another_password(running: ServerProcess) -> None:
    """While the server runs, and while it does not; who is logged in stays so."""
    before = running.log_in()

    def status_with(password: str) -> int:
        request = messages.LoginRequest(user="ann", password=password, device="other")
        return running.exchange("POST", routes.LOGIN, wire.encode(request))[0]

    changed = running.on_data("user", "password", "ann", "--password-stdin", stdin="another\n")
    assert (changed.returncode, "new password" in changed.stdout) == (0, True), changed.stderr
    assert (status_with(PASSWORD), status_with("another")) == (401, 200)
    before.put(noise(1))
    for name, password, word in (("bert", "any\n", "no user 'bert'"), ("ann", "\n", "1 to ")):
        refused = running.on_data("user", "password", name, "--password-stdin", stdin=password)
        assert (refused.returncode, word in refused.stderr) == (1, True), refused.stderr
    running.stop()
    assert running.on_data("user", "password", "ann", "--password-stdin", stdin="a third\n").returncode == 0
    running.start()
    assert (status_with("another"), status_with("a third")) == (401, 200)


def test_an_empty_password_is_refused(server: ServerProcess) -> None:
    refused = server.on_data("user", "add", "ann", "--password-stdin")
    assert refused.returncode == 1
    assert "password" in refused.stderr


def test_settings_come_from_file_environment_and_flag_in_that_order(server: ServerProcess) -> None:
    server.data.mkdir()
    (server.data / "server.toml").write_text('quota = "1M"\nfile_limit = "2M"\n')
    server.environment["DRIVEFS_SERVER_FILE_LIMIT"] = "3M"
    assert server.add_user().returncode == 0
    server.start("--quota", "5M")
    device = server.log_in()
    assert device.session.limits == messages.Limits(file_bytes=3 * 2**20, quota_bytes=5 * 2**20)


def test_a_setting_that_cannot_be_is_refused_before_anything_is_done(server: ServerProcess) -> None:
    server.environment["DRIVEFS_SERVER_QUOTA"] = "many"
    refused = server.on_data("run")
    assert refused.returncode == 2
    assert "quota" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not server.data.exists()


def test_the_help_tells_settings_and_exit_codes(server: ServerProcess) -> None:
    for words in (["--help"], ["run", "--help"]):
        told = server.command(*words)
        assert told.returncode == 0
        assert "DRIVEFS_SERVER_" in told.stdout
        assert "exit codes" in told.stdout
    assert server.command("user", "--help").returncode == 0
    assert server.command("nonsense").returncode == 2


@pytest.mark.fault(37)
def test_it_speaks_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = TlsServerProcess(tmp_path / "data", tmp_path / "config", authority=certificate)
    try:
        assert server.add_user().returncode == 0
        server.start("--tls-cert", str(certificate), "--tls-key", str(key))
        device = server.log_in()
        device.put(noise(1))
        assert device.missing(noise(1)) == 0
    finally:
        server.close()


def test_a_certificate_that_is_none_is_said_in_plain_words(server: ServerProcess, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    address = f"127.0.0.1:{server.port}"
    refused = server.on_data("run", "--listen", address, "--tls-cert", str(junk), "--tls-key", str(junk))
    assert refused.returncode == 1
    assert "junk.pem" in refused.stderr
    assert "Traceback" not in refused.stderr


def make_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = f"openssl req {kind} {names} -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate, key


def test_a_connection_that_breaks_in_the_middle_of_an_upload_harms_nobody(running: ServerProcess) -> None:
    device = running.log_in()
    connection = running.connect()
    connection.putrequest("POST", device.path(routes.PUT_BLOCKS))
    connection.putheader("authorization", f"Bearer {device.token}")
    connection.putheader("content-length", str(2**20))
    connection.endheaders(b"half of a header")
    connection.close()
    assert device.put(noise(3)).stored_count == 1
    code, _, complaints = running.stop()
    assert (code, complaints) == (0, "")


def test_an_upload_that_stands_still_does_not_keep_it_from_stopping(server: ServerProcess) -> None:
    assert server.add_user().returncode == 0
    server.start("--stop-seconds", "1")
    device = server.log_in()
    connection = server.connect()
    connection.putrequest("POST", device.path(routes.PUT_BLOCKS))
    connection.putheader("authorization", f"Bearer {device.token}")
    connection.putheader("content-length", str(2**20))
    connection.endheaders(b"half of a header")
    assert device.missing(noise(1)) == 1
    assert server.stop()[0] == 0
    connection.close()


def test_a_stop_on_a_full_disk_is_told_of_in_words_and_loses_nothing(running: ServerProcess) -> None:
    device = running.log_in()
    device.put(noise(1))
    device.begin_poll().close()
    assert running.process is not None
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    code, _, complaints = running.stop()
    assert (code, "Make room" in complaints, "Traceback" in complaints) == (0, True, False), complaints
    running.start()
    assert device.missing(noise(1)) == 0
    assert running.stop()[0] == 0


def test_the_password_is_nowhere_in_the_data(running: ServerProcess) -> None:
    running.stop()
    for path in running.data.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()


def test_maintenance_tells_what_it_would_do_and_does_it_before_and_while_it_runs(running: ServerProcess) -> None:
    running.log_in().put(noise(3))
    told = json.loads(running.on_data("maintain", "--dry-run", "--json").stdout)
    assert (told["dry_run"], told["revisions"]["let_go"], told["blocks"]["deleted"]) == (True, 0, 0)
    assert json.loads(running.on_data("maintain", "--json").stdout)["dry_run"] is False
    running.stop()
    done = running.on_data("maintain")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 of 0 files let go" in done.stdout
    refused = running.on_data("maintain", "--config", str(running.data / "own.toml"))
    assert refused.returncode == 2


def test_it_says_which_version_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["drivefs-server", "--version"])
    monkeypatch.setattr("os.umask", lambda _mask: None)  # it would be that of all tests that come after
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, capsys.readouterr().out) == (0, f"drivefs-server {__version__}\n")


def test_a_name_that_is_no_text_is_refused_before_a_server_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="UTF-8"):
        control.ask(tmp_path, control.Backup(os.fsdecode(b"/mnt/caf\xe9")), lambda _done, _total: None)


def test_a_device_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is chosen by whoever logs in; the administrator who lists it is somebody else."""
    info = messages.DeviceInfo(device=DeviceId(1), name="[/b]\x1b[2J", created_ns=1)
    reply = control.Reply(devices=[control.UserDevice("ann", info)])
    monkeypatch.setattr(people, "perform", lambda *_arguments: reply)
    arguments = cli._parser().parse_args(["device", "list", "--data", str(tmp_path)])
    assert arguments.run(arguments) == 0
    shown = capsys.readouterr().out
    assert r"[/b]\x1b[2J" in shown
    assert "\x1b" not in shown
