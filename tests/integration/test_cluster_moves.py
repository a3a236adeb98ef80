"""A training that is moved between two machines, in network namespaces, by its checkpoint."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import cli_processes as processes
import pytest
from deploy_harness import Running
from namespaces import TIDED, ask, certify, kill, permitted, sh, until

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.one_torch]

STEPS = 400

#: Writes a line a step. It is slow at its first starts, so that it is moved while it trains.
TRAIN = f"""
import os, sys, threading, torch, torchtide as tide
from torch import nn
torch.manual_seed(1)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))
optimizer = torch.optim.Adam(model.parameters())
path, slow_starts = sys.argv[1], int(sys.argv[2])
start = int(os.environ.get("TIDE_STARTS", "0"))
done = 0
if os.path.exists(path):
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    done = state["done"]

@tide.on_save
def save():
    state = {{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}}
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)

pause = threading.Event()
while done < {STEPS}:
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(done))
    optimizer.zero_grad()
    (model(x) - x.cumsum(1)).pow(2).mean().backward()
    optimizer.step()
    done += 1
    print("step", done, "on", os.environ.get("TIDE_NODES"), flush=True)
    if 0 < start <= slow_starts:
        pause.wait(0.04)
save()
"""

#: Two ranks, each of which writes down the steps that it has saved.
RANKS = """
import os, sys, torch, torch.distributed as dist, torchtide as tide
torch.set_num_threads(1)
dist.init_process_group("gloo")
path = f"rank{dist.get_rank()}"
done = int(open(path).read()) if os.path.exists(path) else 0
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 16))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
tide.on_save(lambda: open(path, "w").write(str(done)))
first = done
last = first + 20 if os.environ["TIDE_STARTS"] == "2" else 10**9
while done < last:
    optimizer.zero_grad()
    model(torch.randn(8, 16)).pow(2).mean().backward()
    optimizer.step()
    done += 1
    if done % 10 == 0:
        sys.stdout.write(f"{path} began after {first}, has done {done}\\n")
        sys.stdout.flush()
"""

#: What a user has for ssh: runs its arguments on the one node of TIDE_NODES.
ON_NODE = """#!/bin/sh
node=${TIDE_NODES%%:*}
export TIDE_RUNTIME_DIR="$MACHINES/$node"
exec ip netns exec "$NAMESPACES-$node" "$@"
"""


@dataclasses.dataclass
class Cluster:
    """A coordinator `c` and machines m1 and m2, each in a namespace and a runtime directory."""

    folder: pathlib.Path
    prefix: str
    tls: list[str]

    def start(self, side: str) -> None:
        """Starts the daemon of a machine, or the coordinator."""
        where = self.folder / side
        shared = ["--runtime-dir", str(where), "--idle-exit-s", "0"]
        shared += ["--secret-file", str(self.folder / "secret")]
        if side == "c":
            shared += ["--listen", "tcp://0.0.0.0:7070", "--policy", "srtf", *self.tls]
        else:
            shared += ["--join", f"tcp://10.92.{side[1]}.1:7070", "--node", side, "--devices", "1"]
            shared += ["--tls-ca", self.tls[1]]
        sh("ip", "netns", "exec", f"{self.prefix}-{side}", str(TIDED), *shared)

    def kill(self, side: str) -> None:
        """Ends a daemon without a word; when this returns it holds its lock no more."""
        path = self.folder / side / "tided.pid"
        stat = pathlib.Path("/proc") / path.read_text(encoding="ascii").strip() / "stat"
        kill(self.folder / side)

        def ended() -> bool:
            try:
                return ") Z " in stat.read_text()
            except OSError:
                return True

        until("it has ended", ended)

    def tide(self, *words: str, side: str = "c") -> str:
        """What a command says that asks the daemon of `side`."""
        environ = {**self.environ(), "TIDE_RUNTIME_DIR": str(self.folder / side)}
        done = subprocess.run(
            [*processes.TIDE, *words],
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def environ(self) -> dict[str, str]:
        """Of a user at the coordinator."""
        return processes.environment(
            self.folder,
            TIDE_RUNTIME_DIR=str(self.folder / "c"),
            MACHINES=str(self.folder),
            NAMESPACES=self.prefix,
            OMP_NUM_THREADS="1",
            PYTHONPATH=processes.LEAN,
        )

    def submit(self, *words: str) -> Running:
        """Starts the training by `tide submit`."""
        return self.launch([], [sys.executable, "train.py", "run.pt", *words])

    def launch(self, options: list[str], script: list[str]) -> Running:
        """Starts a script by `tide submit` and `tide run`."""
        train = [*processes.TIDE, "run", "--name", "train", "--on-signal", "TERM=save-and-end"]
        train += ["--", *script]
        command = [*processes.TIDE, "submit", "--name", "train", "--movable", "--estimate", "500"]
        command += options
        return Running(
            subprocess.Popen(
                [*command, "--", "./on_node", *train],
                env=self.environ(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    def same_as_unmoved(self) -> bool:
        """Whether the result is bit for bit that of a run that stayed where it was."""
        words = [sys.executable, "train.py", "plain.pt", "0"]
        subprocess.run(
            words,
            env={**self.environ(), "TIDE_DISABLE": "1"},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )
        moved, plain = (torch.load(self.folder / name) for name in ("run.pt", "plain.pt"))
        assert moved["done"] == plain["done"] == STEPS
        pairs = zip(moved["model"].values(), plain["model"].values(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    if not permitted():
        pytest.skip("network namespaces with veth links are not permitted here")
    prefix = f"tide-{os.getpid()}"
    made = Cluster(tmp_path, prefix, certify(tmp_path))
    sides = ("c", "m1", "m2")
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "on_node").write_text(ON_NODE, encoding="utf-8")
    (tmp_path / "on_node").chmod(0o755)
    try:
        for side in sides:
            (tmp_path / side).mkdir(mode=0o700)
            sh("ip", "netns", "add", f"{prefix}-{side}")
            sh("ip", "-n", f"{prefix}-{side}", "link", "set", "lo", "up")
        for side in sides[1:]:
            peer = shlex.split(f"peer name v0 netns {prefix}-{side}")
            sh("ip", "-n", f"{prefix}-c", "link", "add", side, "type", "veth", *peer)
            for number, (where, link) in enumerate((("c", side), (side, "v0")), 1):
                address = f"10.92.{side[1]}.{number}/24"
                sh("ip", "-n", f"{prefix}-{where}", "address", "add", address, "dev", link)
                sh("ip", "-n", f"{prefix}-{where}", "link", "set", link, "up")
        for side in sides:
            made.start(side)
        until(
            "both machines join",
            lambda: ask(tmp_path / "c", "Query", what="cluster")["devices"] == 2,
        )
        yield made
    finally:
        for side in sides:
            kill(tmp_path / side)
            for pid in pids_in(f"{prefix}-{side}"):
                os.kill(pid, signal.SIGKILL)
            sh("ip", "netns", "del", f"{prefix}-{side}", check=False)


def pids_in(namespace: str) -> list[int]:
    """What a failed test has left running."""
    found = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def steps_of(said: str) -> list[int]:
    return [int(line.split()[1]) for line in said.splitlines() if line.startswith("step ")]


def where(cluster: Cluster) -> dict[str, int]:
    placed: dict[str, int] = ask(cluster.folder / "c", "Query", what="placement", job="train")[
        "nodes"
    ]
    return placed


def test_a_job_is_moved_and_its_node_emptied_while_it_trains(cluster: Cluster) -> None:
    job = cluster.submit("2")
    job.until("step 5 on m1:1")
    asked = cluster.tide("move", "train", "--to", "m2")
    assert "it moves to 1 on m2 once it has saved (`tide move` asked for it)" in asked
    job.until("train moved from m1:1 to m2:1 in ")
    job.until("on m2:1")
    assert '"train"' in cluster.tide("ps", "--json", side="m2")
    assert "node m2 is being emptied" in cluster.tide("drain", "m2")
    job.until("train moved from m2:1 to m1:1 in ")
    code, _ = job.rest()
    said = "".join(job.seen)
    assert code == 0, said
    assert steps_of(said) == list(range(1, STEPS + 1)), "a step was lost, or counted twice"
    assert cluster.same_as_unmoved()
    events = cluster.tide("events", "-n", "100")
    assert "train has moved: from 1 on m1 to 1 on m2: `tide move` asked for it, " in events
    assert "train has moved: from 1 on m2 to 1 on m1: m2 is being emptied, " in events
    record = ask(cluster.folder / "c", "Query", what="cluster")
    assert record["jobs"] == [] and record["devices_free"] == 1, "m2 still drains"
    assert "is emptied" in cluster.tide("cluster")


def test_daemons_that_are_killed_in_the_middle_of_a_move_lose_nothing(cluster: Cluster) -> None:
    job = cluster.submit("1")
    job.until("step 5 on m1:1")
    cluster.tide("move", "train", "--to", "m2")
    cluster.kill("c")
    cluster.kill("m1")
    cluster.start("c")
    job.until("it is asked to save and end (`tide move` asked for it)")
    cluster.kill("c")
    cluster.start("c")
    cluster.start("m1")
    job.until("train moved from m1:1 to m2:1 in ")
    code, _ = job.rest()
    said = "".join(job.seen)
    assert code == 0, said
    assert steps_of(said) == list(range(1, STEPS + 1))
    assert cluster.same_as_unmoved()


def test_a_job_that_the_policy_puts_elsewhere_is_carried_over_from_its_pause(
    cluster: Cluster,
) -> None:
    cluster.tide("drain", "m2")
    job = cluster.submit("1")
    job.until("step 5 on m1:1")
    ask(cluster.folder / "c", "Submit", key="short", devices=1, estimate_s=1.0)
    until("it is preempted", lambda: not where(cluster))
    until(
        "it is paused",
        lambda: '"paused"' in cluster.tide("ps", "--json", side="m1"),
    )
    cluster.tide("drain", "m2", "--undo")
    job.until("train moved from m1:1 to m2:1 in ")
    assert where(cluster) == {"m2": 1}
    code, _ = job.rest()
    said = "".join(job.seen)
    assert code == 0, said
    assert steps_of(said) == list(range(1, STEPS + 1))
    assert cluster.same_as_unmoved()


def test_a_start_that_fails_elsewhere_goes_back(cluster: Cluster) -> None:
    job = cluster.submit("1")
    job.until("step 5 on m1:1")
    (cluster.folder / "on_node").write_text(
        ON_NODE.replace("exec ip", 'test "$node" = m2 && exit 255\nexec ip'), encoding="utf-8"
    )
    cluster.tide("move", "train")
    job.until("train could not be started on m2:1: the command ended there with 255")
    job.until("train is started again on m1:1")
    code, _ = job.rest()
    said = "".join(job.seen)
    assert code == 0, said
    assert steps_of(said) == list(range(1, STEPS + 1))
    assert cluster.same_as_unmoved()


def test_ranks_of_torchrun_leave_after_the_same_step(cluster: Cluster) -> None:
    (cluster.folder / "ranks.py").write_text(RANKS, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    job = cluster.launch(["--leaves-with", "1"], [*launch, "--nproc-per-node", "2", "ranks.py"])
    job.until("has done 10")
    cluster.tide("move", "train")
    job.until("train moved from m1:1 to m2:1 in ")
    saved = {(cluster.folder / f"rank{rank}").read_text() for rank in (0, 1)}
    assert len(saved) == 1, "the ranks were saved after different steps"
    code, said = job.rest()
    assert code == 0, said
    assert f"rank1 began after {saved.pop()}, " in said
