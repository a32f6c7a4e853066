"""sshfs with an SSH server of its own on loopback, keys made for this run."""

import getpass
import subprocess
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.targets import MountedTarget


class SshfsMount(MountedTarget):
    """Keeps no local copy: a close returns when the server has the data, and each mount reads from the server."""

    name = "sshfs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.server: subprocess.Popen[bytes] | None = None
        self.program = Path()
        self.port = processes.free_port()

    def mount_command(self) -> list[object]:
        place = f"{getpass.getuser()}@127.0.0.1:{self.base / 'data'}"
        options = {
            "IdentityFile": self.base / "user_key",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "BatchMode": "yes",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [self.program, "-f", "-p", self.port, *words, place, self.directory]

    def start(self) -> None:
        work_directory = self.base.parent.parent
        self.program = peers.program("sshfs", work_directory)
        server = peers.program("sshd", work_directory)
        keygen = peers.program("ssh-keygen", work_directory)
        (self.base / "data").mkdir()
        for key in ("host_key", "user_key"):
            processes.run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", self.base / key)
        self.write_configuration()
        # The server refuses to start as root without this directory, which its package makes only at boot.
        processes.run("mkdir", "-p", "/run/sshd")
        command = (server, "-D", "-f", self.base / "sshd_config", "-E", self.base / "server.log")
        self.server = processes.start(*command, log=self.base / "server.log")
        processes.wait_until(lambda: processes.answers(self.port), "the SSH server")
        self.mount()

    def write_configuration(self) -> None:
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}",
            f"HostKey {self.base}/host_key",
            f"AuthorizedKeysFile {self.base}/user_key.pub",
            f"PidFile {self.base}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "Subsystem sftp internal-sftp",
        ]
        (self.base / "sshd_config").write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        super().stop()
        processes.stop(self.server)

    def wait_synced(self) -> bool:
        return True

    def forget_local(self) -> bool:
        self.remount()
        return True
