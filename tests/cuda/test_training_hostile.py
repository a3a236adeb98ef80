"""Training on the phantom GPU beside threads, forked workers, streams, graphs, snapshots."""

from __future__ import annotations

import pytest
from phantom_gpu import Runner

pytestmark = pytest.mark.slow

TRAIN = """
import contextlib, threading
import torch, torchtide, torchtide.cuda as cuda
from torchtide import _core, errors
from training import MIB, Kept, Training, ledger, paused
"""


def test_thresholds_and_splits_of_the_allocator_work_under_a_limit_and_a_pause(
    run: Runner,
) -> None:
    script = """
import os
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = (
    "garbage_collection_threshold:0.1,max_split_size_mb:24,roundup_power2_divisions:8")
torchtide.start()
job = Training("vae", 64)
torch.cuda.set_per_process_memory_fraction(0.2)  # which the threshold is a share of
job.run(2)
cuda.set_limit(torch.cuda.max_memory_reserved() + 64 * MIB)
with paused():
    job.run(6)
assert torch.cuda.memory._snapshot()["allocator_settings"]["max_split_size"] == 24 * MIB
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192)


def test_threads_that_allocate_and_copy_while_limits_move(run: Runner) -> None:
    script = """
torchtide.start()
job = Training("vae", 16)
cuda.keep_cold(job.optimizer)
stop, rounds, failures = threading.Event(), [0] * 3, []
def churn(number):
    kept = Kept(number + 10)
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            while not stop.is_set():
                kept.canaries([300 * (number + 1), 3 * MIB, (12 + number) * MIB])
                kept.check()
                kept = Kept(rounds[number])
                rounds[number] += 1
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=churn, args=(n,), daemon=True) for n in range(3)]
for thread in threads: thread.start()
job.alone = False
limits = {n: (lambda n=n: cuda.set_limit(None if n % 4 == 3 else "2GiB")) for n in range(1, 40, 2)}
try:
    job.run(40, limits)
finally:
    stop.set()
    for thread in threads: thread.join()
assert not failures and min(rounds) > 0, (failures, rounds)
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_HOST_NUMA=1)


def test_a_loader_of_forked_workers_and_a_prefetching_stream(run: Runner) -> None:
    script = """
class Pictures(torch.utils.data.Dataset):
    def __len__(self): return 40
    def __getitem__(self, index):
        assert not _core.cuda_started()
        return torch.full((3, 64, 64), float(index))
torchtide.start()
job = Training("vae", 8)
loader = torch.utils.data.DataLoader(
    Pictures(), batch_size=8, num_workers=2, pin_memory=True, multiprocessing_context="fork",
    persistent_workers=True)
side = torch.cuda.Stream()
seen = []
def ahead(batches):
    last = None
    for batch in batches:
        with torch.cuda.stream(side):
            moved = batch.cuda(non_blocking=True)
        if last is not None: yield last
        torch.cuda.current_stream().wait_stream(side)
        moved.record_stream(torch.cuda.current_stream())
        last = moved
    yield last
with contextlib.ExitStack() as pause:
    for epoch in range(2):
        for number, batch in enumerate(torchtide.iterations(ahead(loader))):
            if (epoch, number) == (0, 2):  # the next batch is copied before it is obeyed
                pause.enter_context(paused())
            job.step((batch,))
            seen += [int(v) for v in batch.cpu()[:, 0, 0, 0]]
            torch.cuda.empty_cache()  # as some do in each iteration
            job.sample()
assert sorted(seen) == sorted([*range(40)] * 2), seen
del batch, loader
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192)


def test_a_captured_training_step_is_replayed_while_memory_leaves_and_returns(run: Runner) -> None:
    script = """
torchtide.start()
job = Training("vae", 16)
inputs = torch.zeros(16, 3, 64, 64, device="cuda")
shown = torch.zeros_like(inputs)
def step():
    shown.copy_(inputs)  # a copy, which the phantom's graphs repeat
    job.net(inputs).backward()
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=False)
stream = torch.cuda.Stream()
with torch.cuda.stream(stream):
    for _ in torchtide.iterations(range(3)): step()
torch.cuda.current_stream().wait_stream(stream)
job.remember_state()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph): step()
private = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] != (0, 0)]
assert private and all(s["is_expandable"] for s in private)
with paused():
    for number in torchtide.iterations(range(8)):
        inputs.copy_(torch.full((16, 3, 64, 64), float(number)))
        graph.replay()
        torch.cuda.synchronize()
        assert bool((shown.cpu() == number).all()), number
        if number % 3 == 1: cuda.set_limit("2GiB" if number % 2 else None)
        job.sample()
del graph, inputs, shown
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192)


def test_snapshots_of_memory_agree_while_pages_move(run: Runner) -> None:
    script = """
torchtide.start()
torch.cuda.memory._record_memory_history(max_entries=20_000)
job = Training("vae", 16)
cuda.keep_cold(job.optimizer)
def look():
    figures, snapshot = cuda.report(), torch.cuda.memory._snapshot()
    assert sum(s["total_size"] for s in snapshot["segments"]) == figures["reserved"], figures
    assert len(snapshot["device_traces"][0]) > 0
def less():
    torch.cuda.empty_cache()
    cuda.set_limit(cuda.report()["reserved"] - 20 * MIB)
    assert cuda.report()["host_mapped"] > 0
    look()
    cuda.set_limit(None)
with paused():
    job.run(8, {2: look, 4: less, 6: look})
torch.cuda.memory._record_memory_history(enabled=None)
job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192, TIDE_PHANTOM_HOST_NUMA=1)


def test_tensors_shared_with_another_process_stay_where_they_are(run: Runner) -> None:
    script = """
import subprocess, sys
if __name__ == "__main__":
    import torch.multiprocessing
    from ipc_reader import read_and_write
    torchtide.start()
    job = Training("vae", 16)
    spawn = torch.multiprocessing.get_context("spawn")
    shared = torch.arange(MIB, dtype=torch.int32).cuda()
    to, back = spawn.Queue(), spawn.Queue()
    process = spawn.Process(target=read_and_write, args=(to, back), daemon=True)
    process.start()
    to.put(shared)
    assert back.get(timeout=200) == MIB * (MIB - 1) // 2
    with paused(left=20 * MIB):  # the page of the shared tensor
        job.run(4)
    assert shared[:5].cpu().tolist() == [7, 7, 7, 7, 4]
    to.put("end")
    process.join()
    assert process.exitcode == 0
    del shared
    torch.cuda.ipc_collect()
    job.end()
"""
    run(TRAIN + script, TIDE_PHANTOM_MB=8192)
