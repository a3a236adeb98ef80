"""Ranks of torchrun and of spawn: each is a job, and none waits for a turn in a collective."""

import json
import pathlib
import subprocess
import tempfile

import cli_processes as processes
import pytest
import torch  # noqa: F401  (this test runs on every supported torch)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TRAIN = """
import atexit, os, sys, torch, torch.distributed
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(8, 64)).pow(2).mean().backward()
    optimizer.step()
# One write, or the lines of two ranks mix in their common pipe.
sys.stdout.write(f"rank {os.environ['RANK']} is {os.environ['TIDE_JOB_NAME']}\\n")
sys.stdout.flush()
torch.distributed.barrier()
# A fault of torch 2.15, with and without torchtide: in one exit of six a Gloo thread lets a Python
# object go while the interpreter ends, which aborts the process. So only atexit's functions run.
atexit._run_exitfuncs()
os._exit(0)
"""


SPAWN = """
import atexit, os, sys, torch, torch.distributed as dist, torch.multiprocessing as multiprocessing
from torch.utils.data import DataLoader, TensorDataset

def rank_main(rank, world_size):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meet"), rank=rank,
                            world_size=world_size)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1024, 512))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(40, 1024)), batch_size=8, num_workers=1,
                        multiprocessing_context="spawn")
    for (batch,) in loader:
        optimizer.zero_grad()
        model(batch).pow(2).mean().backward()
        optimizer.step()
    from torchtide import _core
    moved = os.environ.get("TIDE_JOB_NAME"), _core.started() and _core.report()["live"] > 1 << 20
    dist.barrier()
    sys.stdout.write(f"rank {rank} is {moved[0]}, hooked {moved[1]}\\n")
    sys.stdout.flush()
    atexit._run_exitfuncs()
    os._exit(0)  # as below

if __name__ == "__main__":
    multiprocessing.spawn(rank_main, args=(2,), nprocs=2)
"""


def test_spawned_ranks_are_jobs_and_their_loaders_workers_are_none() -> None:
    with tempfile.TemporaryDirectory(prefix="tide-spawn-") as path:
        folder = pathlib.Path(path)
        (folder / "x.py").write_text(SPAWN)
        environ = processes.environment(folder, TIDE_CAPACITY="4GiB", OMP_NUM_THREADS="1")
        try:
            ended = processes.tide(["run", "--", "python", "x.py"], environ, folder)
            assert ended.returncode == 0, ended.stderr
            said = sorted(line for line in ended.stdout.splitlines() if line.startswith("rank"))
            assert said == ["rank 0 is x[0], hooked True", "rank 1 is x[1], hooked True"]
            listed = processes.tide(["ps", "--json"], environ, folder)
            names = {job["name"] for job in json.loads(listed.stdout)["jobs"]}
            assert {"x[0]", "x[1]"} <= names <= {"x", "x[0]", "x[1]"}
        finally:
            processes.tide(["shutdown"], environ, folder)


def test_ranks_of_torchrun_train_to_the_end_as_jobs_of_their_own() -> None:
    with tempfile.TemporaryDirectory(prefix="tide-ranks-") as path:
        folder = pathlib.Path(path)
        (folder / "x.py").write_text(TRAIN)
        environ = processes.environment(folder, TIDE_CAPACITY="4GiB", OMP_NUM_THREADS="1")
        launch = ["run", "--", "torchrun", "--standalone", "--nproc-per-node", "2", "x.py"]
        try:
            ended = processes.tide(launch, environ, folder)
            assert ended.returncode == 0, ended.stderr
            said = sorted(line for line in ended.stdout.splitlines() if line.startswith("rank"))
            assert said == ["rank 0 is x[0]", "rank 1 is x[1]"]
            listed = processes.tide(["ps", "--json"], environ, folder)
            names = {job["name"] for job in json.loads(listed.stdout)["jobs"]}
            # A rank that ends within milliseconds may end before the daemon has heard of it.
            assert names and names <= {"x[0]", "x[1]"}
        finally:
            processes.tide(["shutdown"], environ, folder)


def test_ranks_whose_script_starts_torchtide_itself_have_turns_together() -> None:
    """Once each of them took turns by itself, and one waited for ever in the other's collective."""
    script = TRAIN.replace("for _ in range(5):", "for _ in torchtide.iterations(range(5)):")
    script = script.replace("{os.environ['TIDE_JOB_NAME']}", "{_core.name()}")
    with tempfile.TemporaryDirectory(prefix="tide-ranks-") as path:
        folder = pathlib.Path(path)
        (folder / "x.py").write_text("import torchtide\nfrom torchtide import _core\n" + script)
        environ = processes.environment(folder, TIDE_DAEMON="off", OMP_NUM_THREADS="1")
        ended = subprocess.run(
            ["torchrun", "--standalone", "--nproc-per-node", "2", "x.py"],
            env=environ,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stderr
        said = sorted(line for line in ended.stdout.splitlines() if line.startswith("rank"))
        assert said == ["rank 0 is x[0]", "rank 1 is x[1]"]
