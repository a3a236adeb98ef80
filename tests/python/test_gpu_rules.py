"""The table of a driver's rules, on the phantom driver; needs no PyTorch."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterator

import pytest
from torchtide.gpu_check import rules

DRIVER = pathlib.Path(__file__).resolve().parents[2] / "build" / "phantom" / "libcuda.so.1"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The phantom driver's path, with a device of its own."""
    if not DRIVER.exists():
        pytest.skip("the phantom driver is not built; scripts/setup builds it")
    name = f"rules{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("TIDE_PHANTOM_NAME", name)
    monkeypatch.setenv("TIDE_PHANTOM_QUIET", "1")
    monkeypatch.setenv("PYTHONPATH", str(DRIVER.parents[2] / "python"))
    yield str(DRIVER)
    for path in pathlib.Path("/dev/shm").glob(f"tide-phantom-{name}-*"):
        path.unlink()


def test_the_phantom_answers_every_rule_as_expected(driver: str) -> None:
    rows = rules.compare(driver)
    assert [row for row in rows if not row["as_expected"]] == []
    assert len(rows) == len(rules.RULES) >= 30


def test_a_driver_that_breaks_a_rule_is_found(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", [r for r in rules.RULES if r.name == "map a page"])
    monkeypatch.setenv("TIDE_PHANTOM_FAULTS", "cuMemMap:0:800")
    rows = rules.compare(driver)
    assert [(row["answer"], row["as_expected"]) for row in rows] == [(800, False)]
