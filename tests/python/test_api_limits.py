"""Limits, suspension and running out of memory through the Python interface."""

import os
import pathlib
import tempfile

import checks
import pytest

pytest.importorskip("torch")

LIMITS, MEMORY, DISK = "api_limits.py", "api_out_of_memory.py", "api_full_disk.py"
SHARED = pathlib.Path("/dev/shm")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {
        LIMITS: checks.run(LIMITS, tmp_path_factory.mktemp("limits"), TIDE_LANE="-1"),
        MEMORY: checks.run(
            MEMORY,
            tmp_path_factory.mktemp("memory"),
            TIDE_LANE="-1",
            TIDE_CAPACITY="800MiB",
            TIDE_SPILL_MAX="64MiB",
            TIDE_NEED_WAIT_MS="50",
        ),
    }


@pytest.mark.parametrize(
    ("script", "check"),
    [(script, check) for script in (LIMITS, MEMORY) for check in [*checks.names(script), "exit"]],
)
def test_promise_holds(ended: dict[str, dict[str, str]], script: str, check: str) -> None:
    checks.verify(ended[script], check)


def in_folder(tmp_path: pathlib.Path, spill: str) -> None:
    found = checks.run(DISK, tmp_path, TIDE_LANE="-1", TIDE_SPILL_DIR=spill)
    for name in [*checks.names(DISK), "exit"]:
        checks.verify(found, name)


@pytest.mark.skipif(not os.access(SHARED, os.W_OK), reason="no tmpfs to be refused")
def test_where_only_memory_can_take_the_spill_file_a_limit_is_refused_with_the_reason(
    tmp_path: pathlib.Path,
) -> None:
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        in_folder(tmp_path, folder)
