"""Training on one phantom GPU by several processes: ranks of DDP, and jobs that take turns."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

FORK = """
import datetime, os, pathlib, sys, time
first = os.fork() != 0  # before CUDA: no driver works in a forked child
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
from training import MIB, Training, ledger, paused
def finish():
    if not first:
        return
    code = os.waitstatus_to_exitcode(os.wait()[1])
    assert code == 0, f"the other process ended with {code}"
    assert cuda.report()["used_by_jobs"] == 0, cuda.report()
"""


def test_two_ranks_of_ddp_over_gloo_pause_and_move_their_limits(run: Runner) -> None:
    script = """
rank = 0 if first else 1
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
               "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
import torch.distributed as dist
store = f"file://{os.environ['TIDE_RUNTIME_DIR']}/store"
dist.init_process_group("gloo", store, rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=200))
torchtide.start(name="ddp")
job = Training("gpt2", 2, amp=True, layers=2, words=4096, length=256)
# What torch sends at the begin is put together by kernels, and a phantom's do nothing.
job.net = torch.nn.parallel.DistributedDataParallel(job.model, init_sync=False)
sent = torch.arange(3 * MIB, dtype=torch.int32)
held = sent.cuda() if first else torch.zeros_like(sent, device="cuda")
dist.broadcast(held, 0)
assert torch.equal(held.cpu(), sent)
cuda.keep_cold(job.optimizer)
job.run(3)
peak = torch.cuda.max_memory_reserved()
between = {1: lambda: cuda.set_limit(peak + 20 * MIB), 3: lambda: cuda.set_limit(None)}
if first:
    with paused():  # the other rank waits for this one in its reduction
        job.run(5, between)
else:
    job.run(5, between)
assert torch.equal(held.cpu(), sent)
dist.barrier()
del held
job.end(others=True)
dist.destroy_process_group()
finish()
"""
    settings = {"TIDE_PHANTOM_HOST_NUMA": 1, "TIDE_NEED_WAIT_MS": 60_000}
    run(FORK + script, TIDE_PHANTOM_MB=8192, TIDE_CUDA_RESUME="layers", **settings)


def test_two_jobs_that_do_not_fit_together_train_in_turns(run: Runner) -> None:
    script = """
torchtide.start(name="first" if first else "second")
job = Training("gpt2", 4, amp=True, seed=1 if first else 2)
moved = pathlib.Path(os.environ["TIDE_RUNTIME_DIR"]) / "moved"
deadline = time.monotonic() + 200
while not moved.exists():  # neither ends before one of them had to step aside
    assert time.monotonic() < deadline
    job.run(2)
    if cuda.report()["demoted_pages_total"] > 0:
        moved.touch()
job.run(2)
assert job.on_device_max > 5 << 30, job.on_device_max
job.end(others=True)
finish()
"""
    run(
        FORK + script,
        TIDE_PHANTOM_MB=8192,
        TIDE_CUDA_SWITCH_SHARE="0.5",
        TIDE_NEED_WAIT_MS=600_000,
    )


def test_two_jobs_that_do_not_fit_together_share_their_scratch(run: Runner) -> None:
    script = """
torchtide.start(name="first" if first else "second")
job = Training("gpt2", 4, amp=True, seed=1 if first else 2)
job.run(8)
moved = cuda.report()["demoted_pages_total"]
job.run(8)
figures = cuda.report()
assert figures["demoted_pages_total"] == moved, "pages moved though all of it fits"
assert figures["lane_pages_entered_total"] > 100, figures
assert 2 * (figures["reserved"] - figures["spare"]) > figures["capacity"], "it would fit anyway"
job.kept.check()
_core.cuda_validate()
if first:
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""
    run(FORK + script, TIDE_PHANTOM_MB=10_240, TIDE_CUDA_LANES=1, TIDE_NEED_WAIT_MS=600_000)
