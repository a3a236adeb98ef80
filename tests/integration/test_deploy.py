"""The recipes of deploy/ as they stand: Slurm batch scripts, Kubernetes manifests."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from deploy_harness import DEADLINE_S, ROOT, Node, Pod, Slurm, namespaces_allowed, node

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]

MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "deploy/slurm").glob("*.sbatch"))
#: More than any run gets to.
ENDLESS = ("--steps", "1000000")
in_a_namespace = pytest.mark.skipif(not namespaces_allowed(), reason="no namespaces for this user")


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="tide-deploy-") as path:
        word = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())
        with node(pathlib.Path(path), word.strip("-")[:40].strip("-")) as made:
            yield made


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two checkpoints are equal bit for bit."""
    first, second = torch.load(one), torch.load(other)
    pairs = [(first["model"][key], second["model"][key]) for key in first["model"]]
    for mine, theirs in zip(
        first["optimizer"]["state"].values(), second["optimizer"]["state"].values(), strict=True
    ):
        pairs += [(mine[key], theirs[key]) for key in mine]
    return first["done"] == second["done"] and all(torch.equal(a, b) for a, b in pairs)


def goes_on_as_if_never_stopped(machine: Node, command: Any, checkpoint: pathlib.Path) -> None:
    """Runs a stopped training to an end, and the same in one go without torchtide."""
    steps = ("--steps", str(torch.load(checkpoint)["done"] + 20))
    code, said = command(*steps).rest()
    assert code == 0, said
    assert "goes on after step" in said
    machine.plain(machine.folder / "plain.pt", *steps)
    assert same(checkpoint, machine.folder / "plain.pt")


# ------------------------------------------------------------------------------------------------
# Slurm


@pytest.mark.slow
def test_a_slurm_job_stops_before_its_time_is_up_and_goes_on_in_its_next_turn(
    machine: Node,
) -> None:
    slurm, checkpoint = Slurm(machine), machine.folder / "preemptible.pt"
    job = slurm.sbatch("train.sbatch", "python", "train.py", *ENDLESS)
    job.until("step 30 ")
    picture = subprocess.run(
        ["tide", "top", "--json"],
        env={**machine.environ, "TIDE_RUNTIME_DIR": str(machine.folder / "tide-77")},
        capture_output=True,
        check=True,
    )
    status = json.loads(picture.stdout)
    assert "train" in picture.stdout.decode()
    if machine.group.kind == "cgroup":  # the capacity is that of --mem
        assert 0 < status["status"]["capacity"] <= 3 << 30
    machine.signal_all(slurm.warning("train.sbatch"))
    code, said = job.rest()
    assert code == 128 + signal.SIGUSR1, said
    assert "SIGUSR1: saved in" in said
    assert slurm.orders() == ["requeue 77"]
    assert not (machine.folder / "tide-spill-77").exists()
    goes_on_as_if_never_stopped(
        machine,
        lambda *steps: slurm.sbatch("train.sbatch", "python", "train.py", *steps),
        checkpoint,
    )
    assert slurm.orders() == ["requeue 77"]


@pytest.mark.slow
def test_a_preempted_slurm_job_is_saved_although_its_loader_is_signalled_too(machine: Node) -> None:
    slurm = Slurm(machine)
    job = slurm.sbatch("train.sbatch", "python", "train.py", *ENDLESS, "--workers", "2")
    job.until("step 30 ")
    machine.signal_all(signal.SIGCONT, signal.SIGTERM)  # as Slurm preempts
    code, said = job.rest()
    assert code == 128 + signal.SIGTERM, said
    assert "SIGTERM: saved in" in said
    assert slurm.orders() == []  # Slurm itself queues it again
    assert torch.load(machine.folder / "preemptible.pt")["done"] >= 30


@pytest.mark.slow
def test_a_suspended_slurm_job_gives_its_memory_before_it_is_stopped(machine: Node) -> None:
    slurm = Slurm(machine)
    job = slurm.sbatch("train.sbatch", "python", "train.py", *ENDLESS)
    job.until("step 30 ")
    machine.signal_all(signal.SIGTSTP)
    job.until("train is paused")
    machine.signal_all(signal.SIGSTOP, signal.SIGCONT)
    job.until("train goes on")
    machine.signal_all(signal.SIGUSR2)  # by hand: scancel --signal=USR2
    job.until("train is paused")
    machine.signal_all(signal.SIGTERM)  # it comes back to be saved
    code, said = job.rest()
    assert code == 128 + signal.SIGTERM, said
    assert "SIGTERM: saved in" in said


@pytest.mark.slow
def test_jobs_that_share_a_slurm_allocation_are_all_saved(machine: Node) -> None:
    slurm, names = Slurm(machine), ("one", "two")
    commands = machine.folder / "commands.txt"
    lines = [
        f"python train.py --checkpoint {name}.pt --steps 1000000 | sed -u s/^/{name}:/"
        for name in names
    ]
    commands.write_text("\n\n".join(lines) + "\n")
    job = slurm.sbatch("share.sbatch", str(commands))
    for name in names:
        if not any(line.startswith(f"{name}:step 10 ") for line in job.seen):
            job.until(f"{name}:step 10 ")
    machine.signal_all(slurm.warning("share.sbatch"))
    _, said = job.rest()
    assert said.count("SIGUSR1: saved in") == 2, said
    assert all(torch.load(machine.folder / f"{name}.pt")["done"] >= 10 for name in names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_batch_script_is_one_that_bash_and_slurm_read(script: pathlib.Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)
    found = Slurm.directives(script.name)
    assert {"job-name", "mem", "time", "signal", "cpus-per-task"} <= set(found)
    text = script.read_text()
    last = max(n for n, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    first = min(n for n, line in enumerate(text.splitlines()) if line and line[0] != "#")
    assert last < first  # sbatch reads no directive behind the first command
    used = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert (used.returncode, "usage: sbatch" in used.stderr) == (2, True)


# ------------------------------------------------------------------------------------------------
# Kubernetes


def manifest(path: pathlib.Path) -> dict[str, Any]:
    found = pytest.importorskip("yaml").safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def pod_of(path: pathlib.Path) -> dict[str, Any]:
    return dict(manifest(path)["spec"]["template"]["spec"])


def test_manifests_are_there() -> None:
    assert [path.name for path in MANIFESTS] == ["job.yaml", "shared.yaml"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_says_what_it_has_to(path: pathlib.Path) -> None:
    schema = json.loads((ROOT / "tests/python/schemas/kubernetes.json").read_text())
    found = manifest(path)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema)
    pod = pod_of(path)
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert found["spec"].get("selector", {}).get("matchLabels", labels) == labels
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for entry in container["env"]:  # each folder that is named is mounted
            assert any(entry["value"].startswith(mount) for mount in mounts)


@pytest.mark.parametrize("broken", ["memory", "shm", "grace"])
def test_a_manifest_that_forgets_something_is_refused(broken: str) -> None:
    schema = json.loads((ROOT / "tests/python/schemas/kubernetes.json").read_text())
    jsonschema, found = pytest.importorskip("jsonschema"), manifest(MANIFESTS[0])
    pod = found["spec"]["template"]["spec"]
    if broken == "memory":
        del pod["containers"][0]["resources"]["limits"]["memory"]
    elif broken == "shm":
        pod["volumes"][-1]["emptyDir"] = {"sizeLimit": "2Gi"}
    else:
        pod["terminationGracePeriodSeconds"] = 30
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


@pytest.mark.slow
@in_a_namespace
def test_a_pod_that_is_deleted_is_saved_and_goes_on_in_the_next(machine: Node) -> None:
    path = ROOT / "deploy/kubernetes/job.yaml"
    container = pod_of(path)["containers"][0]
    pod = Pod(machine, container, *ENDLESS)
    pod.running.until("step 10 ")
    pod.await_probe("startupProbe")
    pod.await_probe("readinessProbe")
    code, said = pod.delete()
    assert "SIGTERM: saved in" in said
    rule = manifest(path)["spec"]["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "Ignore" and code in rule["onExitCodes"]["values"]
    goes_on_as_if_never_stopped(
        machine,
        lambda *steps: Pod(machine, container, *steps).running,
        machine.folder / "checkpoints/train.pt",
    )


def jobs_that_train(pod: Pod) -> list[dict[str, Any]]:
    jobs = json.loads(pod.execute(["tide", "ps", "--json"]).stdout)["jobs"]
    return [job for job in jobs if int(job["iterations"]) > 3]


@pytest.mark.slow
@in_a_namespace
def test_both_jobs_of_a_pod_are_saved(machine: Node) -> None:
    container = pod_of(ROOT / "deploy/kubernetes/shared.yaml")["containers"][0]
    (text,) = container["args"]
    more = text.replace("train.py", f"train.py {' '.join(ENDLESS)}")
    pod = Pod(machine, {**container, "args": [more]})
    pod.running.until("step 30 ")
    pod.await_probe("startupProbe")
    pod.await_probe("readinessProbe")
    end = time.monotonic() + DEADLINE_S
    while {job["name"] for job in jobs_that_train(pod)} != {"small", "large"}:
        assert time.monotonic() < end
    _, said = pod.delete()
    assert said.count("SIGUSR1: saved in") == 2, said
    assert all((machine.folder / f"checkpoints/{name}.pt").exists() for name in ("small", "large"))
