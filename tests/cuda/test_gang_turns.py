"""Jobs of two ranks that do not fit a phantom device together run on it in turns."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

FORK = """
QUARTER = 150 << 18  # of what a rank has, in bytes: 600 MiB in all
import datetime, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["TIDE_RUNTIME_DIR"])
children, place = [], (0, 0)
for one in ((0, 1), (1, 0), (1, 1)):  # before CUDA: no driver works in a forked child
    children.append(os.fork())
    if children[-1] == 0:
        children, place = [], one
        break
number, rank = place
os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(1 + number)}
import torch, torchtide, torchtide.cuda as cuda
import torch.distributed as dist
from training import paused
from torchtide import _core
dist.init_process_group("gloo", f"file://{folder}/store{number}", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=200))
deadline = time.monotonic() + 200
torchtide.start(name="pair" if number else "other")
generator = torch.Generator().manual_seed(place[0] * 2 + place[1])
def filled(): return torch.randint(0, 256, (QUARTER,), dtype=torch.uint8, generator=generator)
host = [filled() for _ in range(4)]
blocks = []
def exact():
    _core.cuda_validate()
    return all(torch.equal(one.cpu(), copy) for one, copy in zip(blocks, host, strict=True))
weight = torch.nn.Parameter(torch.zeros(8, device="cuda"))
optimizer = torch.optim.SGD([weight], lr=0.1)
moved = folder / f"moved{number}"
def train(until):
    # Until all ranks of this job say that it is enough, in the same step.
    for step in torchtide.iterations(range(100_000)):
        assert time.monotonic() < deadline
        while len(blocks) < 4:
            blocks.append(host[len(blocks)].cuda())
        at = step % 4
        blocks[at].copy_(host[at], non_blocking=True)
        told = torch.tensor([1, int(until())])
        device = told.cuda()
        dist.all_reduce(device)  # what the host sends is real on a phantom too
        told = device.cpu()
        assert told[0] == 2
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        if cuda.report()["demoted_pages_total"] > 0:
            moved.touch()
        if told[1] == 2:
            return step
"""
END = """
assert exact(), place
dist.destroy_process_group()
for child in children:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"one of the others ended with {code}"
"""
SETTINGS = {
    "TIDE_PHANTOM_MB": 512,
    "TIDE_CUDA_SWITCH_SHARE": "0.5",
    # Longer than the test: nothing may depend on a wait that ends in vain.
    "TIDE_NEED_WAIT_MS": 600_000,
}


def test_two_jobs_of_two_ranks_that_do_not_fit_together_train_in_turns(run: Runner) -> None:
    """Already their first steps: what they need is born there."""
    script = """
def all_moved(): return all((folder / f"moved{i}").exists() for i in (0, 1))
train(all_moved)
if place == (1, 1):
    with paused():  # the other rank stops with it, and the other job goes on
        train(lambda: True)
else:
    train(lambda: True)
moved.with_suffix(".again").touch()
train(lambda: all((folder / f"moved{i}.again").exists() for i in (0, 1)))
"""
    run(FORK + script + END, TIDE_PHANTOM_DELAY=1, **SETTINGS)


@pytest.mark.one_torch
def test_when_a_leader_is_killed_in_its_turn_the_other_job_has_the_device(run: Runner) -> None:
    script = """
def all_moved(): return all((folder / f"moved{i}").exists() for i in (0, 1))
dead = folder / "dead"
if number == 1:
    def die():
        if all_moved():
            dead.touch()
            if rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return False
    try:
        train(die)
    except RuntimeError:  # of the collective, whose other side is gone
        assert exact(), place
        os._exit(0)
train(dead.exists)
left = iter(range(8))
train(lambda: next(left, None) is None)
if children:
    assert os.waitpid(children.pop(1), 0)[1] == signal.SIGKILL
"""
    run(FORK + script + END, **SETTINGS)
