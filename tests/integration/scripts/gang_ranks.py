"""A rank of a DDP job with large activations; says what it did in the lane, and its digest.

The digest is that after `--steps`, also where the job trains on `--until` a file is there.
"""

import argparse
import atexit
import hashlib
import json
import os
import pathlib
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing


def digest_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str:
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            found.update(value.numpy().tobytes())
    return found.hexdigest()


def hold(out: str) -> None:
    """Stops where it is while there is a pipe of that name, until somebody writes into it."""
    pipe, held = pathlib.Path(f"{out}.hold"), pathlib.Path(f"{out}.held")
    if pipe.exists():
        held.touch()
        pipe.read_bytes()
        held.unlink()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--evaluate", action="store_true", help="rank 0 alone, the others wait")
    parser.add_argument("--until", help="trains on until this file is there")
    parser.add_argument("--spawn", action="store_true", help="two ranks of its own, no torchrun")
    return parser.parse_args()


def spawned(rank: int, options: argparse.Namespace) -> None:
    meet = pathlib.Path(f"{options.out}.meet").absolute()
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    train(options)


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rank = dist.get_rank()
    torch.manual_seed(options.seed)
    layers = [torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)]
    plain = torch.nn.Sequential(*layers)
    model = torch.nn.parallel.DistributedDataParallel(plain)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    step, digest = 0, ""
    while step < options.steps or options.until:
        torch.manual_seed(1000 * options.seed + 10 * step + rank)
        batch = torch.randn(options.batch, 64)
        optimizer.zero_grad()
        loss = model(batch).pow(2).mean()
        if rank == 0:
            hold(options.out)
        loss.backward()
        optimizer.step()
        step += 1
        if step == options.steps:
            digest = digest_of(model, optimizer)
        sys.stdout.write(f"step {rank} {os.getpid()} {step}\n")
        sys.stdout.flush()
        if options.evaluate and step % 5 == 0:
            if rank == 0:
                end = time.monotonic() + 0.7  # longer than a gang waits for its ranks
                with torch.no_grad():
                    while time.monotonic() < end:
                        plain(batch)
            dist.barrier()
        if options.until and step >= options.steps:
            there = torch.tensor([float(pathlib.Path(options.until).exists())])
            dist.all_reduce(there)
            if there.item() > 0:
                break
    said = {"digest": digest, "steps": step}
    core = sys.modules.get("torchtide._core")
    if core is not None and core.started():
        core.validate()
        report = core.report()
        said |= {k: report[k] for k in ("lane_allocations", "lane_peak", "wait_seconds_total")}
    pathlib.Path(f"{options.out}.{rank}.json").write_text(json.dumps(said))
    dist.barrier()
    # As in test_run_ranks.py: torch 2.15 may abort while the interpreter ends.
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    given = parsed()
    if given.spawn:
        torch.multiprocessing.spawn(spawned, args=(given,), nprocs=2)
    else:
        dist.init_process_group("gloo")
        train(given)
