"""`torchtide.sim`: policies in Python, comparisons, and the notebook that shows how."""

from __future__ import annotations

import json
import pathlib

import pytest

pytest.importorskip("torchtide._core")
from torchtide import sim

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRACES = ROOT / "tests" / "sim" / "traces"


class Fifo(sim.Policy):
    """Order of submission; the first that does not fit holds up the rest."""

    def decide(self, view: sim.View) -> None:
        free = view.free
        for job in view.waiting:
            if job.gpus > free:
                return
            view.start(job, reason="first in line")
            free -= job.gpus


class Shortest(sim.Policy):
    """Least remaining time first, preemptive."""

    def decide(self, view: sim.View) -> None:
        free = view.gpus
        jobs = sorted([*view.running, *view.waiting], key=lambda job: job.remaining_s)
        for job in jobs:
            takes = job.gpus <= free
            free -= job.gpus if takes else 0
            if takes and not job.held:
                view.start(job)
            elif job.held and not takes:
                view.preempt(job)


@pytest.mark.parametrize(("policy", "built_in"), [(Fifo(), "fifo"), (Shortest(), "srtf")])
def test_a_policy_in_python_decides_as_the_one_in_cpp(policy: sim.Policy, built_in: str) -> None:
    trace = sim.read_trace(TRACES / "tiresias60.csv")
    ours, theirs = sim.compare(trace, [policy, built_in], gpus=16)
    assert ours["policy"] == type(policy).__name__
    for key in ("jct_s", "preemptions", "events", "makespan_s"):
        assert ours[key] == theirs[key]


def test_a_policy_can_resize_refuse_and_be_woken() -> None:
    trace = sim._core.parse_trace(
        "job_id,submit_s,gpus,duration_s,gpus_min,gpus_max,speedup\n"
        "grows,0,1,100,1,4,1:1;4:4\nleft,0,1,100,,,\n",
        "two",
    )

    class Grower(sim.Policy):
        """Starts one, refuses the other, grows what runs at 50 s."""

        def decide(self, view: sim.View) -> None:
            for job in view.waiting:
                if job.job_id == "grows":
                    view.start(job)
                    view.wake_at(50)
                else:
                    view.refuse(job, "not today")
            for job in view.running:
                assert job.speed(4) == 4
                view.resize(job, 4)

    result = sim.simulate(trace, Grower(), gpus=4)
    assert result["jct_s"] == [62.5]
    assert result["refused"] == [("left", "not today")]
    assert result["resizes"] == 1


def test_what_a_policy_raises_comes_out_of_the_replay() -> None:
    class Broken(sim.Policy):
        """Raises at once."""

        def decide(self, view: sim.View) -> None:
            raise ArithmeticError(f"at {view.now_s}")

    with pytest.raises(ArithmeticError, match=r"at 0\.0"):
        sim.simulate(sim.read_trace(TRACES / "tiresias60.csv"), Broken(), gpus=16)


def test_a_policy_that_hands_out_too_much_is_named_with_job_and_time() -> None:
    class Greedy(sim.Policy):
        """Starts everybody."""

        def decide(self, view: sim.View) -> None:
            for job in view.waiting:
                view.start(job, reason="why not")

    with pytest.raises(RuntimeError, match=r"more GPUs than there are: job .* \(why not\)"):
        sim.simulate(sim.read_trace(TRACES / "muri3.csv"), Greedy(), gpus=64)


def test_every_policy_that_is_built_in_can_be_compared() -> None:
    trace = sim.read_trace(TRACES / "tiresias60.csv")
    names = [name for name, _ in sim.policies()]
    results = sim.compare(trace, names, gpus=16)
    assert [result["jobs_done"] + result["jobs_refused"] for result in results] == [60] * len(names)


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "examples" / "write_a_policy.ipynb").read_text("utf-8"))
    monkeypatch.chdir(ROOT / "examples")
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "ours" in names
