"""Tags: contents that are kept, dropped or made again when memory leaves a device."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

BEGIN = """
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core
PAGE = 20 << 20
assert cuda.enable() == "hooked"
numbers = torch.arange(PAGE // 4, dtype=torch.int32)
kept = numbers.cuda()
cache, table = torch.empty_like(kept), torch.empty(2 * PAGE // 4, device="cuda", dtype=torch.int32)
def fill(tensors):
    calls.append(len(tensors))
    for one in tensors:
        one.copy_(torch.arange(one.numel(), dtype=torch.int32))
calls = []
fill([cache, table])
calls.clear()
def exact(tensor):
    return torch.equal(tensor.cpu(), torch.arange(tensor.numel(), dtype=torch.int32))
assert exact(kept) and exact(cache) and exact(table)
"""


def test_what_is_dropped_is_not_copied_and_returns_as_zeros_or_made_again(run: Runner) -> None:
    script = """
cuda.tag("cache", [cache], "drop")
cuda.tag("table", [table], fill)
figures = cuda.report()
assert figures["tags"] == {
    "cache": {"contents": "drop", "bytes": PAGE, "lost_total": 0},
    "table": {"contents": "rebuild", "bytes": 2 * PAGE, "lost_total": 0}}, figures["tags"]
cuda.suspend()
away = cuda.report()
assert away["dropped"] == 3 * PAGE and away["device"] == 0, away
assert away["host_copy"] == away["reserved"] - 3 * PAGE
cuda.resume()
back = cuda.report()
assert back["dropped"] == 0 and back["device"] == figures["device"]
assert exact(kept) and exact(table) and not cache.cpu().any()
assert calls == [1] and [one["lost_total"] for one in back["tags"].values()] == [1, 1]
# To the file too.
cuda.suspend(to_file=True)
assert cuda.report()["dropped"] == 3 * PAGE and cuda.report()["file"] > 0
cuda.resume()
assert exact(kept) and exact(table)
# A tensor that any tag keeps is kept, and so is what has lost its tag.
fill([cache])
cuda.tag("mine", [cache.view(2, -1)[1], kept], "keep")
cuda.untag("table")
cuda.suspend()
assert cuda.report()["dropped"] == 0
cuda.resume()
assert exact(cache) and exact(table) and calls == [1, 1, 1], calls
# What has gone belongs to no tag; what lies beside something else is kept.
del cache
small = torch.ones(1 << 18).cuda()
cuda.tag("small", [small], "drop")
cuda.suspend()
assert cuda.report()["dropped"] == 0
cuda.resume()
assert bool((small.cpu() == 1).all()) and cuda.report()["tags"]["cache"]["bytes"] == 0
_core.cuda_validate()
"""
    run(BEGIN + script)


def test_a_tag_is_refused_and_a_rebuild_that_fails_is_due_again(run: Runner) -> None:
    script = """
def refused(call, kind):
    try:
        call()
    except kind as error:
        return str(error)
    raise SystemExit("it was taken")
assert "neither" in refused(lambda: cuda.tag("t", [table], "forget"), ValueError)
assert "not for int" in refused(lambda: cuda.tag("t", [1], "drop"), TypeError)
assert "there are none" in refused(lambda: cuda.untag("t"), KeyError)
assert cuda.report()["tags"] == {}
broken = [True]
def sometimes(tensors):
    if broken:
        raise OSError("no table today")
    fill(tensors)
cuda.tag("table", [table], sometimes)
cuda.suspend()
assert "today" in refused(cuda.resume, OSError)
assert not cuda.report()["suspended"] and exact(kept)
broken.clear()
torchtide.start()
for step in torchtide.iterations(range(2)):
    assert exact(table) and calls == [1], calls
assert cuda.report()["tags"]["table"]["lost_total"] == 1
# A pause that fails half-way: what was dropped is made again.
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
refusals = 0
for fault in range(0, 60, 3):
    driver.phantomArmFault(b"*", fault, 1, 999)
    try:
        cuda.suspend()
    except RuntimeError:
        refusals += 1
    driver.phantomDisarmFaults()
    if cuda.report()["suspended"]:
        cuda.resume()
    assert exact(kept) and exact(table), fault
    _core.cuda_validate()
assert refusals > 0 and len(calls) > refusals
torchtide.pause()
assert cuda.report()["dropped"] == 2 * PAGE
torchtide.resume()  # and the program looks at it before its next iteration
assert exact(kept) and exact(table)
"""
    run(BEGIN + script)


TURNS = """
import itertools
import torch, torchtide, torchtide.cuda as cuda
from pair import Pair
MIB = 1 << 20
pair = Pair()
def train(mine):
    torchtide.start(name=("left", "right")[mine])
    table, rebuilt = None, []
    numbers = torch.arange(10 * MIB, dtype=torch.int32) + mine
    def fill(tensors):
        rebuilt.append(cuda.report()["dropped"])
        tensors[0].copy_(numbers)
    for step in torchtide.iterations(itertools.count()):
        if table is None:
            table, kept = numbers.cuda(), (numbers + 1).cuda()
            cuda.tag("table", [table], fill)
        assert torch.equal(table.cpu(), numbers) and torch.equal(kept.cpu(), numbers + 1), step
        if pair.done(mine, step):
            break
    assert len(rebuilt) == cuda.report()["tags"]["table"]["lost_total"] and not any(rebuilt)
    return len(rebuilt)
pair.run(train)
"""


def test_two_jobs_in_turns_drop_for_each_other_what_they_can_make_again(run: Runner) -> None:
    settings = {"TIDE_PHANTOM_MB": 144, "TIDE_CUDA_SWITCH_SHARE": "0.5"}
    settings["TIDE_NEED_WAIT_MS"] = 600_000  # nothing may depend on a wait that ends in vain
    run(TURNS, **settings)
