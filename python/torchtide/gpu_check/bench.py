"""Benchmarks on a GPU against what others offer, each with its baselines in the same run.

`python -m torchtide.gpu_check.bench switch|pass_on|turns [--small]` prints one JSON line. Times
are in seconds, rates in GiB/s.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

GIB = 1 << 30
Answer = dict[str, Any]

# A job that trains and obeys words: it answers each with a JSON line.
TRAINER = """
import json, os, sys, time
began = float(sys.argv[1])
import torch
hooked = sys.argv[2] == "hooked"
if hooked:
    from torchtide import _core, cuda
    assert cuda.enable("trainer") == "hooked"
from torchtide.gpu_check import job
small = sys.argv[3] == "small"
say = lambda **answer: print(json.dumps(answer), flush=True)
model = job.model_of(small=small).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
torch.backends.cuda.enable_cudnn_sdp(False)
batch = torch.randn(8, 16 if small else 512, 64 if small else 1024).cuda()
ballast = torch.ones(int(sys.argv[4]), dtype=torch.uint8, device="cuda")  # of a larger model
def step():
    start = time.perf_counter()
    job.train_step(model, optimizer, batch)
    return time.perf_counter() - start
more = []
step()
say(first_step_s=time.time() - began, reserved=torch.cuda.memory_reserved())
for line in sys.stdin:
    word = line.strip()
    start = time.perf_counter()
    if word == "step":
        say(step_s=min(step() for _ in range(3)))
    elif word == "suspend":
        predicted = cuda.report()["predicted_suspend_s"]
        start = time.perf_counter()
        given = cuda.suspend()
        say(suspend_s=time.perf_counter() - start, bytes=given, predicted_suspend_s=predicted)
    elif word == "deep":
        cuda.suspend()
        start = time.perf_counter()
        why = _core.cuda_pause_deeply()
        say(freeze_s=time.perf_counter() - start, why=why)
    elif word == "resume":
        predicted = 0.0  # a deep pause has the driver bring the contexts back first
        if not _core.cuda_frozen():
            predicted = cuda.report()["predicted_resume_s"]
        start = time.perf_counter()
        cuda.resume()
        resumed = time.perf_counter() - start
        say(resume_s=resumed, predicted_resume_s=predicted, step_s=step())
    elif word.startswith("grow"):
        more.append(torch.ones(int(word.split()[1]), dtype=torch.uint8, device="cuda"))
        say(reserved=torch.cuda.memory_reserved())
    elif word == "shrink":
        more.pop()
        say(reserved=torch.cuda.memory_reserved())
    elif word == "end":
        break
"""

# A neighbour: it holds memory that it does not need, and gives it when others ask.
HOLDER = """
import json, sys, time
import torch
from torchtide import cuda
assert cuda.enable("holder") == "hooked"
await_room(int(sys.argv[1]) + (64 << 20))
block = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
del block  # in PyTorch's cache: no other process can have it
print(json.dumps({"held": torch.cuda.memory_reserved()}), flush=True)
values = torch.zeros(1 << 20, device="cuda")
while torch.cuda.memory_reserved() >= int(sys.argv[1]):
    values.add_(1)
    torch.cuda.synchronize()
    cuda.boundary()
print(json.dumps({"given": True}), flush=True)
sys.stdin.readline()
"""

TAKER = """
import json, sys, time
import torch
from torchtide import cuda
hooked = sys.argv[2] == "hooked"
if hooked:
    assert cuda.enable("taker") == "hooked"
torch.zeros(1, device="cuda")
torch.cuda.synchronize()
print(json.dumps({"ready": True}), flush=True)
sys.stdin.readline()
start = time.perf_counter()
try:
    block = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
    block[-1] = 1
    torch.cuda.synchronize()
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
except torch.OutOfMemoryError as error:
    print(json.dumps({"out_of_memory": str(error)[:120]}), flush=True)
"""


# What a killed process had returns a moment after it is gone.
AWAIT_ROOM = """
def await_room(bytes):
    import time, torch
    end = time.monotonic() + 20
    while torch.cuda.mem_get_info()[0] < bytes and time.monotonic() < end:
        time.sleep(0.05)
"""


class Talker:
    """A script that answers words with JSON lines."""

    def __init__(self, script: str, *arguments: object, **env: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"} | env,
        )
        self.pid = self._process.pid

    def heard(self, seconds: float = 100) -> Answer:
        """The next line.

        Raises:
            RuntimeError: the script has ended, with its last words; or it said nothing for
                `seconds`, with where it was then.
        """
        deadline = threading.Timer(seconds, self._process.send_signal, [signal.SIGABRT])
        deadline.start()
        line = self._stream(self._process.stdout).readline()
        deadline.cancel()
        if not line:
            late = self._process.wait() == -signal.SIGABRT
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines() or ["it ended"]
            raise RuntimeError(" | ".join(last[-20:]) if late else last[-1])
        answer: Answer = json.loads(line)
        return answer

    def say(self, word: str) -> None:
        """Writes a line to it."""
        stream = self._stream(self._process.stdin)
        stream.write(word + "\n")
        stream.flush()

    def ask(self, word: str) -> Answer:
        """Says a word and hears the answer."""
        self.say(word)
        return self.heard()

    def end(self) -> None:
        """Kills it: a benchmark leaves nothing on the device."""
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


def switch(library: str, *, small: bool) -> Answer:
    """A training job leaves the device whole and returns: ours, the driver's checkpoint, a restart.

    The restart is what a killed job needs until its first step has run, without loading a
    checkpoint, which flatters it. A deep pause is ours and then the driver's checkpoint: `freeze_s`
    is that part alone, `resume_s` both; `why` is empty unless the driver refused.
    """
    ballast = (64 << 20) if small else 8 * GIB
    size = "small" if small else "large"
    answer: Answer = {"verdict": "pass"}
    trainer = Talker(TRAINER, time.time(), "hooked", size, ballast)
    try:
        first = trainer.heard()
        ready = trainer.ask("step")["step_s"]
        rounds = []
        for _ in range(3):
            rounds.append(trainer.ask("suspend") | trainer.ask("resume"))
        given = rounds[0]["bytes"]
        answer |= {
            "bytes": given,
            "ready_step_s": ready,
            "suspend_s": [one["suspend_s"] for one in rounds],
            "resume_s": [one["resume_s"] for one in rounds],
            "first_step_after_s": [one["step_s"] for one in rounds],
            "restart_s": first["first_step_s"],
        }
        out = statistics.median(answer["suspend_s"]) + statistics.median(answer["resume_s"])
        answer["restart_over_ours"] = first["first_step_s"] / out
        answer["gib_s"] = 2 * given / GIB / out
        answer |= predicted_over_actual(trainer, ballast // 8, 4 if small else 20)
        answer["deep_pause"] = [trainer.ask("deep") | trainer.ask("resume") for _ in range(2)]
    finally:
        trainer.end()
    answer["checkpoint_hooked"] = _checkpointed(library, "hooked", size, ballast)
    answer["checkpoint_plain"] = _checkpointed(library, "plain", size, ballast)
    answer["memory_saver"] = _memory_saver(ballast)
    return answer


def predicted_over_actual(trainer: Talker, piece: int, count: int) -> Answer:
    """`count` switches of a trainer whose memory grows and shrinks by pieces: what was said before.

    `predicted_error` is the median of |predicted / actual - 1| of both directions.
    """
    switches = []
    for i in range(count):
        trainer.ask(f"grow {piece}" if i % 4 < 2 else "shrink")
        switches.append(trainer.ask("suspend") | trainer.ask("resume"))
    ratios: dict[str, list[float]] = {
        way: [round(one[f"predicted_{way}_s"] / one[f"{way}_s"], 3) for one in switches]
        for way in ("suspend", "resume")
    }
    errors = [abs(ratio - 1) for way in ratios.values() for ratio in way]
    return {"predicted_over_actual": ratios, "predicted_error": statistics.median(errors)}


def _checkpointed(library: str, state: str, size: str, ballast: int) -> Answer:
    """The driver's own checkpoint of a process: device memory to host memory and back."""
    driver = ctypes.CDLL(library)
    if not hasattr(driver, "cuCheckpointProcessLock"):
        return {"verdict": "not offered by this driver"}
    trainer = Talker(TRAINER, time.time(), state, size, ballast)
    try:
        answer: Answer = {"bytes": trainer.heard()["reserved"]}
        driver.cuInit(0)
        lock = (ctypes.c_ubyte * 64)()
        ctypes.c_uint.from_buffer(lock).value = 10_000  # milliseconds
        steps = (
            ("lock", driver.cuCheckpointProcessLock, ctypes.byref(lock)),
            ("checkpoint", driver.cuCheckpointProcessCheckpoint, None),
            ("restore", driver.cuCheckpointProcessRestore, None),
            ("unlock", driver.cuCheckpointProcessUnlock, None),
        )
        for name, call, argument in steps:
            start = time.perf_counter()
            result = int(call(trainer.pid, argument))
            answer[f"{name}_s"] = time.perf_counter() - start
            if result != 0:
                return answer | {"verdict": "refused", "call": name, "error": result}
        answer["step_s"] = trainer.ask("step")["step_s"]
        return answer | {"verdict": "pass"}
    except RuntimeError as error:
        return {"verdict": "fail", "trouble": str(error)}
    finally:
        trainer.end()


MEMORY_SAVER = """
import json, time
import torch
from torch_memory_saver import torch_memory_saver as saver
import sys
saver.hook_mode = "torch"
with saver.region(enable_cpu_backup=True):
    block = torch.ones(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
answer = {"bytes": block.numel(), "pause_s": [], "resume_s": []}
for _ in range(3):
    start = time.perf_counter()
    saver.pause()
    torch.cuda.synchronize()
    middle = time.perf_counter()
    saver.resume()
    torch.cuda.synchronize()
    answer["pause_s"].append(middle - start)
    answer["resume_s"].append(time.perf_counter() - middle)
answer["exact"] = bool((block == 1).all())
print(json.dumps(answer), flush=True)
"""


def _memory_saver(size: int) -> Answer:
    """torch_memory_saver on one block of the same size, where it is installed."""
    if importlib.util.find_spec("torch_memory_saver") is None:
        return {"verdict": "not installed"}
    saver = Talker(MEMORY_SAVER, size)
    try:
        return {"verdict": "pass", **saver.heard()}
    except RuntimeError as error:
        return {"verdict": "fail", "trouble": str(error)}
    finally:
        saver.end()


def pass_on(library: str, *, small: bool) -> Answer:
    """Memory of one process's cache until another can use it: asked for, and not asked for."""
    total = _total_bytes(library)
    answer: Answer = {"verdict": "pass", "rounds": []}
    shares = (0.55,) if small else (0.55, 0.7, 0.9)
    for share in shares:
        wanted = int(total * share)
        # What the holder keeps makes the request impossible until it gives.
        holder = Talker(AWAIT_ROOM + HOLDER, int(total * 0.9))
        takers = []
        try:
            held = holder.heard()["held"]
            one: Answer = {"bytes": wanted, "held": held}
            for state in ("plain", "hooked"):
                taker = Talker(TAKER, wanted, state)
                takers.append(taker)
                taker.heard()
                one[state] = taker.ask("go")
                taker.end()
            answer["rounds"].append(one)
            if "seconds" not in one["hooked"]:
                answer["verdict"] = "fail"
        finally:
            for talker in (holder, *takers):
                talker.end()
    return answer


SHARER = """
import json, sys, time
import torch
from torchtide.gpu_check import job
state, small = sys.argv[1], sys.argv[2] == "small"
ballast_bytes, steps = int(sys.argv[3]), int(sys.argv[4])
if state == "hooked":
    import torchtide
    torchtide.start(name=sys.argv[5])
torch.manual_seed(1)
job.choose_deterministic()
def loop(count):
    return torchtide.iterations(range(count)) if state == "hooked" else range(count)
torch.cuda.init()
await_room(ballast_bytes * 8 // 5)
print(json.dumps({"ready": True}), flush=True)
sys.stdin.readline()
start, ends, moved = time.perf_counter(), [], []
def moved_pages():
    figures = torchtide.cuda.report()
    return figures["demoted_pages_total"] + figures["promoted_pages_total"]
def switches():
    # Steps that had to wait: at which second they ended, how long they took, how much moved.
    return [
        {"step": i, "at_s": round(ends[i], 2), "took_s": round(ends[i] - ends[i - 1], 2),
         "pages": moved[i] - moved[i - 1]}
        for i in range(1, len(moved)) if moved[i] > moved[i - 1]
    ]
model = None
try:
    for step in loop(steps):
        if model is None:
            model = job.model_of(small=small).cuda()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            ballast = torch.zeros(ballast_bytes, dtype=torch.uint8, device="cuda")
            batch = torch.randn(8, 16 if small else 512, 64 if small else 1024).cuda()
        ballast.add_(1)  # each byte is read and written in each step
        job.train_step(model, optimizer, batch)
        ends.append(time.perf_counter() - start)
        if state == "hooked":
            moved.append(moved_pages())
    answer = {"seconds": time.perf_counter() - start, "switches": switches()}
    pieces = torch.split(ballast, 1 << 28)  # a comparison needs as much again
    answer["exact"] = job.on_phantom() or all(bool((one == steps % 256).all()) for one in pieces)
    answer["weights"] = job.hash_of(model)
    if state == "hooked":
        answer["moved_pages"] = moved_pages()
except torch.OutOfMemoryError as error:
    answer = {"out_of_memory": str(error)[:100]}
print(json.dumps(answer), flush=True)
"""


def turns(library: str, *, small: bool) -> Answer:
    """Two training jobs, each with more than half of the device: alone, together, without us.

    `together_over_serial` is their common time over twice the time alone.
    """
    ballast = 560 << 20 if small else int(_total_bytes(library) * 0.51)
    size, steps = ("small", 6) if small else ("large", 150)
    # A job whose loop has ended has its memory until its process is gone.
    env = {"TIDE_DAEMON": "off", "TIDE_NEED_WAIT_MS": "60000"}
    if small:  # a device whose bytes this machine has
        name = os.environ.get("TIDE_PHANTOM_NAME", "default")
        env |= {"TIDE_PHANTOM_NAME": f"{name}-turns", "TIDE_PHANTOM_MB": "1024"}
        env |= {"TIDE_PHANTOM_CONTEXT_MB": "16"}

    script = AWAIT_ROOM + SHARER

    def run(state: str, count: int) -> list[Answer]:
        jobs = [Talker(script, state, size, ballast, steps, f"job{i}", **env) for i in range(count)]
        try:
            for job in jobs:
                job.heard()
            for job in jobs:
                job.say("go")
            answers = [job.heard() for job in jobs]
        finally:
            for job in jobs:
                job.end()
        return answers

    answer: Answer = {"bytes_each": ballast}
    for name, state, count in (
        ("alone", "hooked", 1),
        ("together", "hooked", 2),
        ("without", "plain", 2),
    ):
        answer[name] = run(state, count)
        _say("turns", {"verdict": "unfinished", **answer})  # in case the rest does not end
    [alone], together = answer["alone"], answer["together"]
    answer["failed_without"] = sum("out_of_memory" in one for one in answer["without"])
    fine = all("seconds" in one for one in [alone, *together])
    same = fine and {one["weights"] for one in together} == {alone["weights"]}
    exact = fine and all(one["exact"] for one in [alone, *together])
    if fine:
        longest = max(one["seconds"] for one in together)
        answer["together_over_serial"] = round(longest / (2 * alone["seconds"]), 3)
    return {"verdict": "pass" if same and exact else "fail", "bitwise_equal": same, **answer}


def _say(name: str, answer: Answer) -> None:
    print(json.dumps({name: answer}), flush=True)


def _total_bytes(library: str) -> int:
    driver = ctypes.CDLL(library)
    total = ctypes.c_size_t()
    device = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        raise RuntimeError("the driver has no device")
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return total.value


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="gpu-check bench")
    parser.add_argument("name", choices=("switch", "pass_on", "turns"))
    parser.add_argument("--driver", default="libcuda.so.1")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    run = {"switch": switch, "pass_on": pass_on, "turns": turns}[arguments.name]
    _say(arguments.name, run(arguments.driver, small=arguments.small))
    return 0


if __name__ == "__main__":
    sys.exit(main())
