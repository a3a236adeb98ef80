"""The baseline of moving memory: write it past the page cache into a file, read it back."""

from __future__ import annotations

import dataclasses
import mmap
import os
import pathlib
import time

CHUNK_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class RawCopy:
    """Bytes a second out of memory, and back."""

    write_bytes_per_s: float
    read_bytes_per_s: float


def spill_folder() -> pathlib.Path:
    """Where the runtime would put its spill file when no option says otherwise."""
    named = os.environ.get("TIDE_SPILL_DIR")
    if named:
        return pathlib.Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "torchtide"


class RawFile:
    """An unlinked file in the spill folder and as much anonymous memory.

    Direct I/O: through the page cache the kernel's write-back is ten times slower on virtual disks,
    and a baseline should be as good as it can be. The file is used again by each copy, as the
    runtime's is.
    """

    def __init__(self, size_bytes: int) -> None:
        """Fills the memory, so that the first copy pays for no page fault."""
        folder = spill_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._size = size_bytes // CHUNK_BYTES * CHUNK_BYTES
        self._memory = mmap.mmap(-1, self._size)
        pattern = os.urandom(CHUNK_BYTES)
        for _ in range(self._size // CHUNK_BYTES):
            self._memory.write(pattern)
        self._descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600)
        os.posix_fallocate(self._descriptor, 0, self._size)

    def copy(self) -> RawCopy:
        """Copies the memory to the file and back, once."""
        with memoryview(self._memory) as view:
            begin = time.perf_counter()
            for offset in range(0, self._size, CHUNK_BYTES):
                os.pwrite(self._descriptor, view[offset : offset + CHUNK_BYTES], offset)
            written = time.perf_counter()
            for offset in range(0, self._size, CHUNK_BYTES):
                os.preadv(self._descriptor, [view[offset : offset + CHUNK_BYTES]], offset)
            read = time.perf_counter()
        return RawCopy(self._size / (written - begin), self._size / (read - written))

    def close(self) -> None:
        """Gives memory and file back."""
        os.close(self._descriptor)
        self._memory.close()
