"""Experiments with PyTorch: the hook, limits, suspension, graphs, shares of the multiprocessors.

`python -m torchtide.gpu_check.job NAME... [--small]` runs some in one process and prints one JSON
line each. An experiment that raises is reported as failed and the next one runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from torchtide import cuda
from torchtide.errors import LimitConflict, TideError
from torchtide.gpu_check import driver as driver_checks
from torchtide.gpu_check import rules

MIB, GIB = 1 << 20, 1 << 30
PHANTOM = "Phantom"
untyped: Any = torch.cuda  # its classes and functions without annotations
Answer = dict[str, Any]


def on_phantom() -> bool:
    """Whether kernels compute nothing here."""
    return PHANTOM in torch.cuda.get_device_name(0)


def model_of(*, small: bool, width: int = 0) -> torch.nn.Module:
    """A transformer: a hundred million parameters, or a hundred thousand, or of that width."""
    layers, heads = (2, 4) if small else (8, 16)
    width = width or _width(small=small)
    layer = torch.nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def _width(*, small: bool) -> int:
    return 64 if small else 1024


def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor
) -> None:
    """Forward, backward and step in mixed precision; returns when the device has done them."""
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()


def train(
    steps: int,
    *,
    small: bool,
    between: Callable[[int, torch.optim.Optimizer], None] | None = None,
    width: int = 0,
) -> tuple[str, float]:
    """Trains from a fixed seed; a hash of the weights, and the median milliseconds of a step.

    The first quarter of the steps is not counted.
    """
    torch.manual_seed(1)
    width = width or _width(small=small)
    model = model_of(small=small, width=width).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    times = []
    for step in range(steps):
        batch = torch.randn(
            8 if small else 64, 16 if small else 512, width, generator=generator
        ).cuda()
        torch.cuda.synchronize()
        start = time.perf_counter()
        train_step(model, optimizer, batch)
        times.append((time.perf_counter() - start) * 1e3)
        if between is not None:
            between(step, optimizer)
    digest = hash_of(model)
    del model, optimizer, batch
    torch.cuda.empty_cache()
    return digest, statistics.median(times[steps // 4 :])


def choose_deterministic() -> None:
    """Kernels whose result is the same each time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    for choose in (
        torch.backends.cuda.enable_cudnn_sdp,
        torch.backends.cuda.enable_flash_sdp,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ):
        choose(False)


def hash_of(model: torch.nn.Module) -> str:
    """Of all bits of the weights."""
    digest = hashlib.sha256()
    for value in model.parameters():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def bitwise(*, small: bool) -> Answer:
    """E5 and E15: one training without the hook, with it, and with pages moved all the time."""
    steps = 4 if small else 16
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    choose_deterministic()
    train(2, small=small)  # libraries load
    plain, hooked = [], []
    for _ in range(1 if small else 3):
        plain.append(train(steps, small=small))
        _require_hook()
        hooked.append(train(steps, small=small))
        cuda.disable()
    _require_hook()
    seconds = {"suspend": 0.0, "resume": 0.0}
    moves = 0

    def move(step: int, optimizer: torch.optim.Optimizer) -> None:
        nonlocal moves
        if step % 2:
            return
        cuda.keep_cold(optimizer)
        start = time.perf_counter()
        cuda.suspend()
        middle = time.perf_counter()
        cuda.resume()
        seconds["suspend"] += middle - start
        seconds["resume"] += time.perf_counter() - middle
        moves += 1

    moved = train(steps, small=small, between=move)
    hashes = {digest for digest, _ in [*plain, *hooked, moved]}
    plain_ms = statistics.median(ms for _, ms in plain)
    hooked_ms = statistics.median(ms for _, ms in hooked)
    return {
        "verdict": "pass" if len(hashes) == 1 else "fail",
        "weights": sorted(hashes),
        "step_ms_plain": [round(ms, 3) for _, ms in plain],
        "step_ms_hooked": [round(ms, 3) for _, ms in hooked],
        "hooked_over_plain": round(hooked_ms / plain_ms, 4),
        "suspensions": moves,
        "step_ms_between_suspensions": round(moved[1], 3),
        **{f"{name}_s_total": round(taken, 3) for name, taken in seconds.items()},
    }


def cold(*, small: bool) -> Answer:
    """A limit that an iteration fits because it has half of the optimizer's state leave."""
    choose_deterministic()
    _require_hook()
    steps, width = (4, 512) if small else (16, 1024)
    state = 0

    def measure(step: int, optimizer: torch.optim.Optimizer) -> None:
        nonlocal state
        tensors = [value for one in optimizer.state.values() for value in one.values()]
        state = sum(value.nbytes for value in tensors if value.is_cuda)

    train(2, small=small, width=width)  # libraries load
    torch.cuda.reset_peak_memory_stats()
    whole = train(steps, small=small, width=width, between=measure)
    bytes_max = torch.cuda.max_memory_reserved() - state // 2
    away: list[int] = []

    def shrink(step: int, optimizer: torch.optim.Optimizer) -> None:
        if step == 0:
            cuda.keep_cold(optimizer)
            cuda.set_limit(bytes_max)
        else:
            away.append(cuda.report()["host_mapped"])

    try:
        halved = train(steps, small=small, width=width, between=shrink)
    finally:
        cuda.set_limit(None)
        cuda.keep_cold([])
    answer: Answer = {
        "state": state,
        "limit": bytes_max,
        "in_host_memory": max(away),
        "state_left": max(away) > 0,
        "bitwise_equal": whole[0] == halved[0],
        "step_ms": round(whole[1], 3),
        "step_ms_cold": round(halved[1], 3),
        "cold_over_whole": round(halved[1] / whole[1], 4),
    }
    return _verdict(answer, "state_left", "bitwise_equal")


def limit(*, small: bool) -> Answer:
    """E6: a limit is felt as PyTorch's own out-of-memory error, and raising it ends that."""
    _require_hook()
    host = torch.randint(0, 256, (256 * MIB,), dtype=torch.uint8)
    block = host.cuda()
    figures = cuda.report()
    answer: Answer = {"figures_agree": figures["reserved"] == figures["torch_reserved"]}
    cuda.set_limit("512MiB")
    try:
        torch.empty(600 * MIB, dtype=torch.uint8, device="cuda")
        answer["limit_felt"] = False
    except torch.OutOfMemoryError:
        answer["limit_felt"] = True
    cuda.set_limit(None)
    torch.empty(600 * MIB, dtype=torch.uint8, device="cuda")
    answer["values_exact"] = torch.equal(block.cpu(), host)
    del block
    torch.cuda.empty_cache()
    del small
    return _verdict(answer, "figures_agree", "limit_felt", "values_exact")


def mapped(*, small: bool) -> Answer:
    """E2: a running job whose cold block lies in host memory that the device reads."""
    _require_hook()
    size = 64 * MIB if small else 4 * GIB
    host = torch.arange(size // 8)
    block = host.cuda()
    expected = _timed_sum(block)
    cuda.keep_cold([block])
    start = time.perf_counter()
    try:
        status = cuda.set_limit(size // 2)
    except LimitConflict as conflict:
        return {"verdict": "not offered by this driver", "reason": str(conflict)}
    seconds = time.perf_counter() - start
    away = cuda.report()["host_mapped"]
    over_bus = _timed_sum(block)
    start = time.perf_counter()
    cuda.set_limit(None)
    back_seconds = time.perf_counter() - start
    answer = {
        "moved": status["moved"],
        "shrink_gib_s": round(away / GIB / seconds, 2),
        "grow_gib_s": round(away / GIB / back_seconds, 2),
        "read_device_gib_s": expected[1],
        "read_half_mapped_gib_s": over_bus[1],
        "sum_equal": expected[0] == over_bus[0],
        "values_exact": torch.equal(block.cpu(), host),
        "left_on_host": cuda.report()["host_mapped"],
    }
    del block
    torch.cuda.empty_cache()
    cuda.keep_cold([])
    return _verdict(answer, "values_exact", "sum_equal")


def suspend(*, small: bool) -> Answer:
    """E12 and E14: how fast a job leaves the device and returns, against plain pinned copies."""
    _require_hook()
    size = 64 * MIB if small else 8 * GIB
    host = torch.arange(size // 8)
    block = host.cuda()
    torch.cuda.synchronize()
    answer: Answer = {"bytes": size, "suspend_gib_s": [], "resume_gib_s": []}
    left = exact = 0
    for _ in range(3):
        start = time.perf_counter()
        given = cuda.suspend()
        middle = time.perf_counter()
        left += cuda.report()["device"]
        answer["residual_bytes"] = int(torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0])
        resuming = time.perf_counter()
        cuda.resume()
        end = time.perf_counter()
        answer["suspend_gib_s"].append(round(given / GIB / (middle - start), 2))
        answer["resume_gib_s"].append(round(given / GIB / (end - resuming), 2))
    exact = torch.equal(block.cpu(), host)
    answer |= {"bytes_left_on_device": left, "values_exact": exact, **_pinned_copies(small=small)}
    del block
    torch.cuda.empty_cache()
    answer["nothing_left"] = left == 0
    return _verdict(answer, "values_exact", "nothing_left")


def graph(*, small: bool) -> Answer:
    """E4: a captured graph replays after its memory was away: addresses stay."""
    _require_hook()
    values = torch.zeros((8 if small else 64) * MIB // 4, device="cuda")
    side = untyped.Stream()
    with torch.cuda.stream(side):
        values.add_(1)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        values.add_(1)
        extra = values * 2
    captured.replay()
    torch.cuda.synchronize()
    cuda.suspend()
    cuda.resume()
    captured.replay()
    torch.cuda.synchronize()
    first, doubled = float(values[0]), float(extra[0])
    answer = {"after_two_replays": first, "from_graph_pool": doubled}
    if on_phantom():
        return {"verdict": "not on the phantom", **answer}
    answer["exact"] = bool((values == 3).all()) and bool((extra == 6).all())
    return _verdict(answer, "exact")


def waits(*, small: bool) -> Answer:
    """E3: which calls about other memory wait for a kernel of 200 ms that is in flight."""
    block = torch.zeros(MIB, device="cuda")
    block.add_(1)  # its kernel is loaded at the first use, which waits
    sandbox = rules.Sandbox("libcuda.so.1")
    busy = untyped.Event()
    torch.cuda.synchronize()
    rate = 1_000_000 if small else _sleep_cycles_per_ms()
    answer: Answer = {}
    steps: dict[str, Callable[[], int]] = {
        "create": lambda: sandbox.create(1, sandbox.one),
        "map": lambda: sandbox.map(0, 1, sandbox.one),
        "set_access": lambda: sandbox.access(0, 1),
        "unmap": lambda: sandbox.unmap(0, 1),
        "release": lambda: sandbox.release(sandbox.one),
    }
    for name, step in steps.items():
        untyped._sleep(int(rate * 200))
        block.add_(1)
        busy.record()
        start = time.perf_counter()
        result = step()
        taken = (time.perf_counter() - start) * 1e3
        answer[name] = {"ms": round(taken, 3), "kernel_still_runs": not busy.query()}
        torch.cuda.synchronize()
        if result != rules.OK:
            raise RuntimeError(f"{name} is answered with {result} while a kernel runs")
    return {"verdict": "pass", **answer}


def shares(*, small: bool) -> Answer:
    """E10: a matrix product on green contexts of 32, 64 and 96 multiprocessors, and on all."""
    size = 64 if small else 8192
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    try:
        streams = driver_checks.green_contexts("libcuda.so.1")
    except RuntimeError as error:
        return {"verdict": "not offered by this driver", "reason": str(error)}
    answer: Answer = {"ms": {}}
    everything = torch.cuda.get_device_properties(0).multi_processor_count
    for count, stream in [*streams, (everything, 0)]:
        where = untyped.ExternalStream(stream) if stream else torch.cuda.current_stream()
        with torch.cuda.stream(where):
            start, end = (untyped.Event(enable_timing=True) for _ in range(2))
            for _ in range(3):
                torch.mm(left, right)
            start.record()
            for _ in range(10):
                torch.mm(left, right)
            end.record()
        torch.cuda.synchronize()
        answer["ms"][str(count)] = round(start.elapsed_time(end) / 10, 4)
    return {"verdict": "pass", **answer}


def _pinned_copies(*, small: bool) -> Answer:
    """The baseline: the bytes of one pinned buffer there and back, and what pinning costs."""
    size = 64 * MIB if small else 2 * GIB
    start = time.perf_counter()
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    pinning = time.perf_counter() - start
    device = torch.zeros(size, dtype=torch.uint8, device="cuda")
    pinned.copy_(device)
    answer: Answer = {"pinning_gib_s": round(size / GIB / pinning, 2)}
    for name, target, source in (("to_host", pinned, device), ("to_device", device, pinned)):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        answer[f"copy_{name}_gib_s"] = round(size / GIB / (time.perf_counter() - start), 2)
    return answer


def _timed_sum(block: torch.Tensor) -> tuple[int, float]:
    """The block's sum and with how many GiB/s it was read."""
    total = int(block.sum())
    torch.cuda.synchronize()
    start = time.perf_counter()
    block.sum()
    torch.cuda.synchronize()
    size = block.numel() * block.element_size()
    return total, round(size / GIB / (time.perf_counter() - start), 2)


def _sleep_cycles_per_ms() -> float:
    start, end = (untyped.Event(enable_timing=True) for _ in range(2))
    untyped._sleep(1_000_000)
    start.record()
    untyped._sleep(20_000_000)
    end.record()
    torch.cuda.synchronize()
    return float(20_000_000 / start.elapsed_time(end))


def _require_hook() -> None:
    state = cuda.enable("gpu-check")
    if state != "hooked":
        raise RuntimeError(f"the hook was refused: {state}")


def _verdict(answer: Answer, *true: str) -> Answer:
    return {"verdict": "pass" if all(answer[key] for key in true) else "fail", **answer}


EXPERIMENTS: dict[str, Callable[..., Answer]] = {
    function.__name__: function
    for function in (bitwise, cold, limit, mapped, suspend, graph, waits, shares)
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="gpu-check job")
    parser.add_argument("names", nargs="+", choices=sorted(EXPERIMENTS))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for bitwise
    for name in arguments.names:
        start = time.perf_counter()
        try:
            answer = EXPERIMENTS[name](small=arguments.small)
        except (RuntimeError, ValueError, OSError, AttributeError, KeyError, TideError) as error:
            answer = {"verdict": "fail", "trouble": f"{type(error).__name__}: {error}"}
        answer["seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps({name: answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
