"""The baseline of moving memory: plain writes until the cache is empty, plain reads back."""

from __future__ import annotations

import dataclasses
import mmap
import os
import pathlib
import time

CHUNK_BYTES = 2 << 20
# sync_file_range is not in the os module; fdatasync waits for the same writes


@dataclasses.dataclass(frozen=True)
class RawCopy:
    """Bytes a second to the disk (and out of the cache), and back."""

    write_bytes_per_s: float
    read_bytes_per_s: float


def spill_folder() -> pathlib.Path:
    """Where the runtime would put its spill file when no option says otherwise."""
    named = os.environ.get("TIDE_SPILL_DIR")
    if named:
        return pathlib.Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "torchtide"


def measure_raw_copy(size_bytes: int) -> RawCopy:
    """Copies anonymous memory to an unlinked file in the spill folder and back, once."""
    folder = spill_folder()
    folder.mkdir(parents=True, exist_ok=True)
    memory = mmap.mmap(-1, size_bytes)
    view = memoryview(memory)
    pattern = os.urandom(CHUNK_BYTES)
    for offset in range(0, size_bytes - CHUNK_BYTES + 1, CHUNK_BYTES):
        view[offset : offset + CHUNK_BYTES] = pattern
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        begin = time.perf_counter()
        for offset in range(0, size_bytes, CHUNK_BYTES):
            os.pwrite(descriptor, view[offset : offset + CHUNK_BYTES], offset)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, size_bytes, os.POSIX_FADV_DONTNEED)
        written = time.perf_counter()
        for offset in range(0, size_bytes, CHUNK_BYTES):
            os.preadv(descriptor, [view[offset : offset + CHUNK_BYTES]], offset)
        read = time.perf_counter()
    finally:
        os.close(descriptor)
        view.release()
        memory.close()
    return RawCopy(size_bytes / (written - begin), size_bytes / (read - written))
