"""Offers of a driver or a PyTorch: shares of multiprocessors, communicators that leave."""

from __future__ import annotations

import importlib.metadata

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

BEGIN = """
import ctypes
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
MIB = 1 << 20
assert cuda.enable() == "hooked"
driver = ctypes.CDLL("libcuda.so.1")
"""


def test_an_iteration_runs_on_a_share_and_what_follows_waits_for_it(run: Runner) -> None:
    script = """
host = torch.randint(0, 256, (8 * MIB,), dtype=torch.uint8).pin_memory()
first, second = (torch.zeros(8 * MIB, dtype=torch.uint8, device="cuda") for _ in range(2))
outside = torch.cuda.current_stream()
first.copy_(host, non_blocking=True)  # happens when something waits for it
with cuda.share(0.5) as multiprocessors:
    assert multiprocessors == 72  # 66 of 132, in the units of this device
    inside = torch.cuda.current_stream()
    assert inside != outside
    second.copy_(first)  # needs the copy before
assert torch.cuda.current_stream() == outside
third = second.clone()
assert torch.equal(third.cpu(), host)
with cuda.share(0.5):
    assert torch.cuda.current_stream() == inside  # made once
with cuda.share(1.0) as all_of_them:
    assert torch.cuda.current_stream() == outside and all_of_them == 132
try:
    cuda.share(0.3).__enter__()
    raise SystemExit("any share is taken")
except ValueError:
    pass
assert cuda.report()["offers"]["shares"] == "yes, of 132 multiprocessors"
"""
    run(BEGIN + script, TIDE_PHANTOM_DELAY=1)


def test_where_the_driver_has_no_shares_it_says_so(run: Runner) -> None:
    script = """
try:
    cuda.share(0.25).__enter__()
    raise SystemExit("it was made")
except NotImplementedError as error:
    assert "NOT_SUPPORTED" in str(error), error
assert cuda.report()["offers"]["shares"].startswith("no: "), cuda.report()
"""
    run(BEGIN + script, TIDE_PHANTOM_GREEN=0)


COMMUNICATORS = """
import torch.distributed as dist
nccl = ctypes.CDLL("libnccl.so.2")
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
host = torch.arange(MIB, dtype=torch.int32)
held = host.cuda()
dist.all_reduce(held)
"""


@pytest.mark.skipif(
    importlib.metadata.version("torch").startswith("2.11"), reason="PyTorch 2.12 is the first"
)
def test_communicators_leave_before_the_pages_and_return_after_them(run: Runner) -> None:
    script = """
torchtide.start()
torchtide.pause()
assert nccl.phantomNcclSuspended() == 1 and cuda.report()["device"] == 0
torchtide.resume()
assert nccl.phantomNcclSuspended() == 0
dist.all_reduce(held)
assert torch.equal(held.cpu(), host)
# A suspension that fails brings them back; so does one of a device alone.
driver.phantomArmFault(b"cuMemUnmap", 0, 2, 999)  # for pinned memory and for the file
try:
    cuda.suspend()
    raise SystemExit("the fault was not felt")
except (ValueError, RuntimeError):
    assert nccl.phantomNcclSuspended() == 0
cuda.suspend()
assert nccl.phantomNcclSuspended() == 1
cuda.resume()
assert nccl.phantomNcclSuspended() == 0 and torch.equal(held.cpu(), host)
# An interrupt of a pause finds them back, though it waits in the interpreter meanwhile.
import os, signal
gate = torchtide.runtime.GATE
gate.begin(2)
gate.end()
gate.on_held = lambda held: os.kill(os.getpid(), signal.SIGINT) if held else None
signal.signal(signal.SIGINT, signal.default_int_handler)
torchtide.pause()
assert nccl.phantomNcclSuspended() == 1
try:
    gate.begin(2)
    raise SystemExit("the pause did not hold")
except KeyboardInterrupt:
    assert nccl.phantomNcclSuspended() == 0
assert torch.equal(held.cpu(), host)
dist.destroy_process_group()
"""
    run(BEGIN + COMMUNICATORS + script, TIDE_CUDA_NCCL="suspend")


def test_by_default_communicators_stay(run: Runner) -> None:
    script = """
cuda.suspend()
assert nccl.phantomNcclSuspended() == 0
cuda.resume()
dist.all_reduce(held)
dist.destroy_process_group()
"""
    run(BEGIN + COMMUNICATORS + script)
