"""The notebooks run in a real kernel, which idles, is interrupted and is steered from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cli_processes as processes
import pytest
import torch  # noqa: F401  (the kernels need it)

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from torchtide import _launch

pytestmark = pytest.mark.integration

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
DEADLINE_S = 240


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A user's home; the kernel inherits our environment."""
    with tempfile.TemporaryDirectory(prefix="tide-book-") as path:
        environ = processes.environment(
            pathlib.Path(path), OMP_NUM_THREADS="1", TIDE_CAPACITY="4GiB", TIDE_SPILL_DIR=path
        )
        for key in list(os.environ):
            if key.startswith(("TIDE_", "XDG_", "JUPYTER")):
                monkeypatch.delenv(key)
        for key, value in environ.items():
            monkeypatch.setenv(key, value)
        bin_folder = pathlib.Path(path) / "bin"
        bin_folder.mkdir()
        (bin_folder / "tide").write_text(f'#!/bin/sh\nexec {" ".join(processes.TIDE)} "$@"\n')
        (bin_folder / "tide").chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin_folder}:{environ['PATH']}")
        _launch.ensure_daemon(pathlib.Path(path) / "run")
        try:
            yield pathlib.Path(path)
        finally:
            processes.tide(["shutdown"], environ, pathlib.Path(path))


class Kernel:
    """A kernel whose cells are run one by one."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE_S)

    def send(self, code: str) -> str:
        """Begins a cell; its number for `await_`."""
        return str(self.client.execute(code))

    def await_(self, message: str) -> tuple[str, str]:
        """What a cell printed or showed, and the name of its error."""
        said, error = "", ""
        end = time.monotonic() + DEADLINE_S
        while True:
            found = self.client.get_iopub_msg(timeout=max(end - time.monotonic(), 0.1))
            if found["parent_header"].get("msg_id") != message:
                continue
            content = found["content"]
            if found["msg_type"] == "stream":
                said += content["text"]
            elif found["msg_type"] in ("execute_result", "display_data"):
                said += json.dumps(content["data"])
            elif found["msg_type"] == "error":
                error = content["ename"]
                said += "\n".join([content["evalue"], *content["traceback"]])
            elif found["msg_type"] == "status" and content["execution_state"] == "idle":
                return said, error

    def run(self, code: str) -> str:
        said, error = self.await_(self.send(code))
        assert not error, (error, said)
        return said

    def job(self) -> dict[str, Any]:
        """This kernel as the daemon sees it."""
        answer = processes.ask(dict(os.environ), "ps") or {"jobs": []}
        return next((job for job in answer["jobs"] if job["state"] != "gone"), {})

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def holds() -> bool:
            found.update(job := self.job())
            return condition(job)

        processes.until(holds, DEADLINE_S, self.job)
        return found

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


TRAIN = """
%load_ext torchtide
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))
optimizer = torch.optim.Adam(model.parameters())
def step():
    loss = model(torch.randn(32, 1024)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(6): step()
"""


@pytest.fixture
def kernel(folder: pathlib.Path) -> Iterator[Kernel]:
    found = Kernel(folder)
    try:
        yield found
    finally:
        found.close()


def test_an_idle_kernel_gives_its_memory_back_and_has_it_before_the_next_cell(
    kernel: Kernel,
) -> None:
    kernel.run(TRAIN)
    kernel.run("before = [p.detach().clone() for p in model.parameters()]")
    assert "<table>" in kernel.run("%tide idle 0.5")
    job = kernel.until(lambda job: job.get("state") == "paused")
    assert job["resident"] <= 8 << 20, job
    said = kernel.run("print(all(map(torch.equal, before, model.parameters())))\nstep()")
    assert "True" in said
    # Orders of a shell reach it while no cell runs.
    kernel.run("%tide idle off")
    for words in (["pause", "notebook"], ["resume", "notebook"]):
        ended = processes.tide(words, dict(os.environ), kernel.folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    # An interrupt leaves the turn and everything else in order.
    running = kernel.send("print('begun', flush=True)\nwhile True: step()")
    kernel.until(lambda job: int(job["iterations"]) > 20)
    kernel.manager.interrupt_kernel()
    said, error = kernel.await_(running)
    assert error == "KeyboardInterrupt", said
    kernel.until(lambda job: not job["turn"])
    assert "False" in kernel.run(
        "from torchtide import _core; _core.validate()\nstep(); print(False)"
    )
    assert "no job is called" in kernel.run("%tide pause nobody")
    assert "not a number" in kernel.run("%tide idle soon")
    assert "job notebook: " in kernel.run("print(repr(get_ipython().run_line_magic('tide', '')))")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: pathlib.Path, folder: pathlib.Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "save it without output"
    client = NotebookClient(
        notebook, timeout=DEADLINE_S, resources={"metadata": {"path": str(folder)}}
    )
    asyncio.run(client.async_execute())
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "Traceback" not in shown and "tide: " not in shown, shown
