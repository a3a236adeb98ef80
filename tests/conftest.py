"""For all Python tests: marks (`torch` from the source, `integration` from the folder), Ctrl-C."""

import pathlib
import re
import signal

import pytest

TORCH = re.compile(
    r"^\s*(import torch\b(?!tide)|from torch(\.| )|.*importorskip\([\"']torch)", re.MULTILINE
)


def pytest_configure() -> None:
    """Lets what tests start be interrupted.

    A shell starts what it runs in the background with SIGINT ignored, and so are all children then:
    a test that interrupts one and waits for its end would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test whose file imports torch (or starts a script that does) runs on every torch.

    Except those marked `one_torch`: slow ones of processes, signals and sockets.
    """
    touches: dict[pathlib.Path, bool] = {}
    for item in items:
        path = item.path
        if path not in touches:
            touches[path] = bool(TORCH.search(path.read_text(encoding="utf-8")))
        if touches[path] and item.get_closest_marker("one_torch") is None:
            item.add_marker("torch")
        if "integration" in path.parts:
            item.add_marker("integration")
