"""torchrun under `tide run`: each rank is a job, and none waits for a turn in a collective."""

import json
import pathlib
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
