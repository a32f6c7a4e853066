"""A source tree of text files, generated: same seed, same bytes. Owns its shape: how large, how deep."""

import io
import random
import tarfile
from pathlib import Path

VOCABULARY = """
block extent inode dentry revision workspace seq epoch run lineage cursor mutation journal commit change feed base lease
def return await async with for in if not None True False import from class self raise yield lambda else try except
"""
FILES_PER_DIRECTORY = 12
TYPICAL_BYTES = 5000
MOST_BYTES = 400_000
NEEDLE = "the_needle_that_grep_looks_for"


def lines(source: random.Random) -> list[str]:
    """A stock of lines from which all files are put together; drawing each word of 25 MB would take minutes."""
    words_known = VOCABULARY.split()
    stock = []
    for _ in range(4000):
        words = source.choices(words_known, k=source.randint(2, 11))
        stock.append("    " * source.randint(0, 4) + " ".join(words) + f" {source.getrandbits(32):x}\n")
    return stock


def file_content(source: random.Random, stock: list[str]) -> bytes:
    """Sizes as in real trees: most are a few KiB, a few are hundreds."""
    wanted = min(MOST_BYTES, int(TYPICAL_BYTES * source.lognormvariate(0.0, 1.1)))
    count = max(1, wanted // 45)
    return "".join(source.choices(stock, k=count)).encode()


def directory_name(number: int) -> str:
    """Three levels deep: package/part/piece."""
    return f"tree/package{number // 36:02}/part{number // 6 % 6}/piece{number % 6}"


def make_tar(path: Path, source: random.Random, file_count: int) -> None:
    """Writes an uncompressed tar of the tree, so that unpacking costs nothing but files."""
    stock = lines(source)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(file_count):
            content = file_content(source, stock)
            if number % 500 == 7:
                content += NEEDLE.encode() + b"\n"
            entry = tarfile.TarInfo(f"{directory_name(number // FILES_PER_DIRECTORY)}/module{number:04}.py")
            entry.size = len(content)
            entry.mode = 0o644
            entry.mtime = 1_600_000_000 + number
            tar.addfile(entry, io.BytesIO(content))
