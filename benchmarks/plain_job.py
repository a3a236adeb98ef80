"""A job without the runtime, as a program: trains and prints the seconds of its steps."""

from __future__ import annotations

import argparse
import json
import time

WARM_UP_STEPS = 2


def main() -> None:
    """The last line printed is a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("sizes", type=json.loads)
    given = parser.parse_args()
    import torch

    from benchmarks import models

    torch.set_num_threads(given.threads)
    job = models.build(given.model, **given.sizes)
    seconds = []
    for _ in range(WARM_UP_STEPS + given.steps):
        begin = time.perf_counter()
        job.step(next(job.batches))
        seconds.append(time.perf_counter() - begin)
    print(json.dumps(seconds[WARM_UP_STEPS:]))


if __name__ == "__main__":
    main()
