"""A server that has lost a block gets it again from a device that has it."""

from tests.support.mounts import Workbench, wait_until


def test_what_the_server_has_lost_comes_again_from_a_device_that_has_it(workbench: Workbench) -> None:
    """[server-healed] The server's check finds it, its repair puts the rest aside, the next mount sends it again."""
    server = workbench.server()
    device = workbench.device(server)
    drive = device.mount()
    (drive / "thesis").write_bytes(b"chapter one" * 40_000)
    device.sync()
    device.umount()
    objects = [path for path in (server.data / "blocks/objects").rglob("*") if path.is_file()]
    for path in objects:
        path.write_bytes(b"rot" + path.read_bytes()[3:])
    assert server.command("check").returncode == 3
    repaired = server.command("check", "--repair")
    assert repaired.returncode == 5
    assert "/thesis" in repaired.stdout
    device.mount()
    wait_until("the server is healed", lambda: server.command("check").returncode == 0)
    assert server.command("check", "--repair").returncode == 0
    other = workbench.device(server)
    assert (other.mount() / "thesis").read_bytes() == b"chapter one" * 40_000
    for each in (device, other):
        each.umount()
