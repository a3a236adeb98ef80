"""Every test of this folder needs a phantom for the torch it runs on."""

import pathlib
from collections.abc import Iterator

import phantom_gpu
import pytest


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phantom_gpu.Zygote]:
    """Skips with the reason where there is no phantom."""
    found = phantom_gpu.for_this_torch()
    if found.reason:
        pytest.skip(found.reason)
    started = phantom_gpu.Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.end()


@pytest.fixture
def run(zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path) -> phantom_gpu.Runner:
    """Runs a script on a phantom of its own."""
    return phantom_gpu.Runner(zygote, tmp_path)
