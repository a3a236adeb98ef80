"""Two training jobs of a lane on one GPU: with scratch that they share, and with scratch each.

`python -m torchtide.gpu_check.lanes lanes [--small]` prints one JSON line. Bytes, and milliseconds
where a key says so.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
from typing import Any

from torchtide.gpu_check import part
from torchtide.gpu_check.bench import Talker

Answer = dict[str, Any]

#: Trains, and says when each iteration began and ended, by a clock that all processes have in
#: common, and what the device held. An iteration ends where the next one's forward is called, and
#: begins where it runs: in between is the turn of the other. Activations are most of its scratch.
TRAINER = """
import json, sys, time
import torch
from torchtide.gpu_check import job
state, small, steps = sys.argv[1], sys.argv[2] == "small", int(sys.argv[3])
seeds = [int(seed) for seed in sys.argv[4:]]
loop = range
if state != "alone":
    import torchtide
    torchtide.start(name=f"job{seeds[0]}")
    def loop(count):
        return torchtide.iterations(range(count))
def train(seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, begins, ends, figures, settled = None, [], [], [], []
    for step in loop(steps):
        if model is None:
            model = job.model_of(small=small).cuda()
            model.layers[0].register_forward_pre_hook(lambda *_: begins.append(time.monotonic()))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        shape = (8, 16, 64) if small else (48, 512, 1024)
        batch = torch.randn(*shape, generator=generator).cuda()
        ends.append(time.monotonic())
        job.train_step(model, optimizer, batch)
        if state != "alone":
            said = torchtide.cuda.report()
            keys = ("device", "lane_chunks", "lanes_of_all", "used_by_jobs", "total", "free")
            figures.append({key: said[key] for key in keys})
            settled.append(said["lane_settle_ns_last"])
    return {
        "weights": job.hash_of(model), "spans": list(zip(begins, [*ends[1:], time.monotonic()])),
        "figures": figures, "settled_ns": settled, "peak": torch.cuda.max_memory_allocated(),
        "kept": torch.cuda.memory_allocated(),
    }
job.choose_deterministic()
torch.cuda.init()
print(json.dumps({"ready": True}), flush=True)
sys.stdin.readline()
for seed in seeds:
    print(json.dumps(train(seed)), flush=True)
sys.stdin.readline()  # its memory stays until the other has said its figures
"""


def lanes(*, small: bool) -> Answer:
    """Weights of both jobs bit by bit as alone, device memory, and the time of a hand-over."""
    size, steps = ("small", 14) if small else ("large", 40)
    answer: Answer = {}
    for state in ("alone", "turns", "lanes"):
        answer[state] = _run(state, size, steps)
        print(json.dumps({"lanes": {"verdict": "unfinished", **answer}}), flush=True)
    alone = answer["alone"]["weights"]
    equal = all(answer[state]["weights"] == alone for state in ("turns", "lanes"))
    shared = answer["lanes"]["shared"]
    answer["saved"] = answer["turns"]["used_by_jobs"] - answer["lanes"]["used_by_jobs"]
    verdict = "pass" if equal and shared > 0 and answer["saved"] > 0 else "fail"
    return {"verdict": verdict, "bitwise_equal": equal, **answer}


def _run(state: str, size: str, steps: int) -> Answer:
    """Both jobs one after the other, or in turns."""
    with tempfile.TemporaryDirectory(prefix="torchtide-lanes-") as folder:
        env = {"TIDE_DAEMON": "off", "TIDE_RUNTIME_DIR": folder, "TIDE_LANE_POLICY": "rr"}
        env |= {"TIDE_CUDA_LANES": str(int(state == "lanes")), "TIDE_NEED_WAIT_MS": "60000"}
        if size == "small":  # a device whose bytes this machine has
            name = os.environ.get("TIDE_PHANTOM_NAME", "default")
            env |= {"TIDE_PHANTOM_NAME": f"{name}-lanes", "TIDE_PHANTOM_MB": "1024"}
            env |= {"TIDE_PHANTOM_CONTEXT_MB": "16"}
        # Alone: one job after the other, in one process.
        groups = ((0, 1),) if state == "alone" else ((0,), (1,))
        jobs = [Talker(TRAINER, state, size, steps, *seeds, **env) for seeds in groups]
        try:
            for job in jobs:
                job.heard()
            for job in jobs:
                job.say("go")
            answers = [job.heard() for job, seeds in zip(jobs, groups, strict=True) for _ in seeds]
        finally:
            for job in jobs:
                job.end()
    result: Answer = {"weights": [one["weights"] for one in answers]}
    if state == "alone":
        return result
    result["scratch"] = [one["peak"] - one["kept"] for one in answers]
    result["kept"] = [one["kept"] for one in answers]
    return result | _together(answers)


def _together(answers: list[Answer]) -> Answer:
    """Of the second half of the time in which both trained: the first has pages on the move."""
    begin = max(one["spans"][0][0] for one in answers)
    end = min(one["spans"][-1][1] for one in answers)
    middle = (begin + end) / 2
    late = [
        (span, figures, settled, who)
        for who, one in enumerate(answers)
        for span, figures, settled in zip(
            one["spans"], one["figures"], one["settled_ns"], strict=True
        )
        if middle <= span[0] and span[1] <= end
    ]
    late.sort(key=lambda entry: entry[0])
    gaps = [
        (after[0][0] - before[0][1]) * 1e3
        for before, after in itertools.pairwise(late)
        if before[3] != after[3]
    ]
    if not late:
        return {"used_by_jobs": 0, "shared": 0, "trouble": "they never trained at the same time"}
    figures = [entry[1] for entry in late]
    return {
        "used_by_jobs": max(one["used_by_jobs"] for one in figures),
        "used_of_device": max(one["total"] - one["free"] for one in figures),
        "shared": max(one["lanes_of_all"] for one in figures),
        "chunks": [
            max(entry[1]["lane_chunks"] for entry in late if entry[3] == who) if late else 0
            for who in sorted({entry[3] for entry in late})
        ],
        "handovers": len(gaps),
        "handover_ms": round(statistics.median(gaps), 3) if gaps else None,
        "handover_longest_ms": round(max(gaps), 3) if gaps else None,
        "boundary_ms": round(statistics.median(entry[2] for entry in late) / 1e6, 3),
        "step_ms": round(statistics.median((b - a) * 1e3 for (a, b), *_ in late), 3),
    }


if __name__ == "__main__":
    sys.exit(part.main("lanes", {"lanes": lanes}))
