"""`tide report` beside two real jobs, one limited and paused; the page drawn by a real browser."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any
from xml.etree import ElementTree

import cli_processes as processes
import pytest
import torch  # noqa: F401  (the jobs need it)
from live_machine import DEADLINE_S, Machine

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]
CHROMIUM = shutil.which("chromium")


def looked_back(machine: Machine) -> dict[str, Any]:
    """The run so far, told by the daemon."""
    words = ("report", "--last", "1h", "-o", "past.html", "--json")
    told: dict[str, Any] = json.loads(machine.tide(*words))
    return told


def await_looks(machine: Machine, looks: int) -> None:
    """Until the daemon, which looks once a second, has looked so often."""
    deadline = time.monotonic() + DEADLINE_S
    while looked_back(machine)["samples"] < looks:
        assert time.monotonic() < deadline


def test_a_run_of_two_jobs_becomes_a_page() -> None:
    with tempfile.TemporaryDirectory(prefix="tide-report-") as path:
        machine = Machine(pathlib.Path(path), TIDE_CAPACITY="4GiB", TIDE_SPILL_DIR=path)
        machine.start("--", "python", "train.py")
        machine.start("--name", "other", "--", "python", "train.py")
        try:
            for name in ("train", "other"):
                machine.until(lambda job: int(job["iterations"]) > 8, name)
            watching = subprocess.Popen(
                [*processes.TIDE, "report", "-o", "run.html", "--interval", "0.1", "--json"],
                env=machine.environ,
                cwd=path,
                stdout=subprocess.PIPE,
                text=True,
            )
            before = int(machine.record("other")["iterations"])
            machine.tide("pause", "train")
            machine.until(lambda job: int(job["iterations"]) > before + 20, "other")
            machine.tide("resume", "train")
            then = int(machine.record("train")["iterations"])
            machine.until(lambda job: int(job["iterations"]) > then + 3, "train")
            await_looks(machine, 3)
            for job in machine.jobs:
                job.send_signal(signal.SIGTERM)
            told = json.loads(watching.communicate(timeout=DEADLINE_S)[0])
            assert watching.returncode == 0
            machine.tide("shutdown")
            past = looked_back(machine)  # of the next daemon, from what that one has left
        finally:
            machine.close()
        assert {job["job"]: job["end"] for job in told["jobs"]} == {
            "train": "killed by signal 15",
            "other": "killed by signal 15",
        }
        assert {job["job"] for job in past["jobs"]} == {"train", "other"}
        assert past["samples"] >= 3 and past["events"] >= told["events"]
        assert {job["end"] for job in past["jobs"]} == {"killed by signal 15"}
        other = next(job for job in told["jobs"] if job["job"] == "other")
        assert other["iterations"] >= 20 and other["memory_peak"] > 64 << 20
        page = pathlib.Path(path) / "run.html"
        root = ElementTree.fromstring(page.read_text(encoding="utf-8").partition("\n")[2])
        text = "".join(root.itertext())
        assert re.search(r"train: paused|paus.*train", text), text[-3000:]
        states = [r.get("class") for r in root.iter("rect")]
        assert "state paused" in states and "state running" in states
        assert all(len(p.get("points") or "") > 100 for p in root.iter("polygon"))
        if CHROMIUM is not None:
            shot = pathlib.Path(path) / "run.png"
            words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
            words += ["--disable-dev-shm-usage", f"--user-data-dir={path}/profile"]
            words += ["--window-size=1100,1400", f"--screenshot={shot}", f"file://{page}"]
            subprocess.run(words, capture_output=True, timeout=120, check=True)
            assert shot.stat().st_size > 20_000, "an empty page is smaller"
            if kept := os.environ.get("TIDE_TEST_REPORT_KEPT"):
                shutil.copy(shot, kept)
