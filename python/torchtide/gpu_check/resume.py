"""How soon a suspended training has done its next step, by what a resume waits for.

`python -m torchtide.gpu_check.resume resume [--small]` prints one JSON line. The options of
`cuda.resume` are tried in processes of their own: whole (all pages before the step), pipelined (the
state of the optimizer while it runs), layers (parameters too, in the order of their use). The lower
bound is a step without a suspension before it (`ready_step_s`); `over_ready` is what is left of a
mode's time above it, as a ratio to that of whole. All weights must be bitwise those of a training
that was never suspended. Times are medians in seconds.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from torchtide.gpu_check import part
from torchtide.gpu_check.bench import Talker

Answer = dict[str, Any]
MODES = ("whole", "pipelined", "layers")
_LEARNING = 2  # rounds before the first that counts: pinned memory is filled in, the order learnt

SCRIPT = """
import json, sys, time
import torch
from torchtide import cuda
assert cuda.enable("resume") == "hooked"
from torchtide.gpu_check import job
small, suspends, rounds = sys.argv[1] == "small", sys.argv[2] == "suspends", int(sys.argv[3])
job.choose_deterministic()
torch.manual_seed(1)
width = 1024 if small else 2048
model = job.model_of(small=small, width=width).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batch = torch.randn(8, 16 if small else 512, width, device="cuda")
def step():
    start = time.perf_counter()
    job.train_step(model, optimizer, batch)
    return time.perf_counter() - start
answer = {"ready": [step() for _ in range(4)][1:], "resume": [], "step": [], "waits": []}
for _ in range(rounds):
    given = cuda.suspend() if suspends else 0
    answer["bytes"] = given
    waits = cuda.report()["late_waits_total"]
    start = time.perf_counter()
    if suspends:
        cuda.resume()
    answer["resume"].append(time.perf_counter() - start)
    answer["step"].append(step())
    answer["waits"].append(cuda.report()["late_waits_total"] - waits)
answer["weights"] = job.hash_of(model)
print(json.dumps(answer), flush=True)
"""


def resume(*, small: bool) -> Answer:
    """Every mode against a training that is never suspended."""
    rounds = _LEARNING + (2 if small else 6)
    size = "small" if small else "large"
    undisturbed = _run(size, "stays", rounds, "whole")
    ready = statistics.median(undisturbed["ready"])
    answer: Answer = {"verdict": "pass", "ready_step_s": ready}
    for mode in MODES:
        one = _run(size, "suspends", rounds, mode)
        counted = list(zip(one["resume"], one["step"], strict=True))[_LEARNING:]
        answer[mode] = {
            "bytes": one["bytes"],
            "resume_s": statistics.median(resumed for resumed, _ in counted),
            "step_s": statistics.median(stepped for _, stepped in counted),
            "step_done_s": statistics.median(sum(both) for both in counted),
            "waits": one["waits"][-1],
        }
        if one["weights"] != undisturbed["weights"]:
            answer["verdict"] = "fail"
    whole = answer["whole"]["step_done_s"] - ready
    answer["over_ready"] = {
        mode: round((answer[mode]["step_done_s"] - ready) / whole, 3) for mode in MODES[1:]
    }
    return answer


def _run(size: str, state: str, rounds: int, mode: str) -> Answer:
    trainer = Talker(SCRIPT, size, state, rounds, TIDE_CUDA_RESUME=mode)
    try:
        return trainer.heard()
    finally:
        trainer.end()


if __name__ == "__main__":
    sys.exit(part.main("resume", {"resume": resume}))
