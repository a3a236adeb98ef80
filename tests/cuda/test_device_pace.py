"""Pace of jobs that compute on a device: what the device does counts, not what was launched."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

#: Kernels of 4 ms, ten an iteration, launched in no time by a loop that never waits for them.
KERNEL_US = 4000
BEGIN = f"""
import ctypes, subprocess, sys, time
import torch, torchtide, torchtide.cuda as cuda
ITERATION_S = 10 * {KERNEL_US} / 1e6
driver = ctypes.CDLL("libcuda.so.1")
driver.phantomCallCount.restype = ctypes.c_uint64
def waits(): return driver.phantomCallCount(b"cuCtxSynchronize")
def marks(): return driver.phantomCallCount(b"cuEventSynchronize")
neighbour = None
def have_neighbour(priority):
    global neighbour
    script = f'''
import sys, torchtide
torchtide.start(name="neighbour", priority="{{priority}}", lane=-1)
torchtide.runtime.GATE.begin(2)
print("inside", flush=True)
sys.stdin.read()  # an iteration that lasts
'''
    neighbour = subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True)
    assert neighbour.stdout.readline() == "inside\\n"
def train(count):
    begun = time.monotonic()
    for _ in torchtide.iterations(range(count)):
        for _ in range(10):
            block.add_(1)
    return time.monotonic() - begun
def prepare(priority):
    global block
    torchtide.start(priority=priority, lane=-1)
    block = torch.zeros(1 << 20, device="cuda")
    torch.cuda.synchronize()
"""
SETTINGS: dict[str, str | int] = {"TIDE_PHANTOM_DELAY": 2, "TIDE_PHANTOM_KERNEL_US": KERNEL_US}


def test_a_guaranteed_jobs_steps_are_as_long_as_the_devices_and_its_queue_never_runs_dry(
    run: Runner,
) -> None:
    script = """
prepare("guaranteed")
before = waits(), marks()
train(4)
assert (waits(), marks()) == before  # it runs ahead: nobody's pace depends on it
torch.cuda.synchronize()
have_neighbour("opportunistic")
before = waits(), marks()
beside = train(8)
assert beside >= 6 * ITERATION_S, beside  # the last one may still be on the device
assert (waits(), marks() - before[1]) == (before[0], 7)
neighbour.communicate("")
"""
    run(BEGIN + script, **SETTINGS)


def test_a_slowed_job_is_charged_for_what_the_device_does_for_it(run: Runner) -> None:
    script = """
prepare("opportunistic")
have_neighbour("guaranteed")
train(2)
report = torchtide.report()
assert report["pace"] == 0.25, report["pace"]  # the least: nothing is known of the other one
took = train(4)
# Each iteration of 40 ms is followed by three times as long a pause.
paused = torchtide.report()["paced_seconds_total"] - report["paced_seconds_total"]
assert paused >= 0.8 * 3 * 3 * ITERATION_S, (paused, took)
neighbour.communicate("")
"""
    run(BEGIN + script, TIDE_PACE_MIN="0.25", **SETTINGS)
