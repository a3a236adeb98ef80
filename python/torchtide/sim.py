"""The simulator for notebooks: traces, policies by name, and policies written in Python.

from torchtide import sim

class Shortest(sim.Policy):
def decide(self, view: sim.View) -> None:
free = view.free
for job in sorted(view.waiting, key=lambda job: job.duration_s):
if job.gpus <= free:
view.start(job)
free -= job.gpus
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchtide import _core

Trace = _core.Trace
JobRow = _core.JobRow
View = _core.View

#: Figures of a replay, as `tide simulate --json` prints them, with `jct_s` and `usage` as lists.
Result = dict[str, Any]


class Policy(abc.ABC):
    """A cluster policy in Python. The daemon runs only those in C++; the simulator runs both.

    Decisions must follow from what `decide` is shown and from the policy's own state, so that a
    replay gives the same again.
    """

    @property
    def name(self) -> str:
        """What results are listed under."""
        return type(self).__name__

    @abc.abstractmethod
    def decide(self, view: View) -> None:
        """Called at each arrival, completion, fault and `view.wake_at`; answers by calling `view`.

        Args:
            view: The time, the jobs that wait and run, and `start`, `resize`, `preempt`, `refuse`,
                `wake_at`. It is valid during the call only.
        """


def read_trace(path: str | Path) -> Trace:
    """Reads a CSV file with the columns job_id,submit_s,gpus,duration_s and those it may have.

    Raises:
        ValueError: A line that cannot be; the message names it.
    """
    return _core.read_trace(str(path))


def policies() -> list[tuple[str, str]]:
    """(name, rule in a line) of each policy that is built in."""
    return _core.cluster_policies()


def simulate(
    trace: Trace,
    policy: str | Policy,
    gpus: int = 64,
    *,
    nodes: int = 1,
    policy_options: Mapping[str, Any] | None = None,
    cluster_options: Mapping[str, Any] | None = None,
) -> Result:
    """Replays a trace under one policy.

    Args:
        trace: From `read_trace`.
        policy: A name of `policies()` or an object of a class derived from `Policy`.
        gpus: Of the whole cluster.
        nodes: Over which they are spread evenly; 1: only their number counts.
        policy_options: As after `--set`, with values of their types.
        cluster_options: As in the file after `--cluster`.

    Returns:
        The figures by name.

    Raises:
        ValueError: No such policy, option or cluster.
        RuntimeError: The policy broke a law: more GPUs than there are, a start of a job that runs.
    """
    if nodes < 1 or gpus % nodes:
        raise ValueError(f"{gpus} GPUs are not spread evenly over {nodes} nodes; give a multiple")
    return _core.simulate(
        trace,
        policy,
        nodes,
        gpus // nodes,
        policy_options=dict(policy_options or {}),
        cluster_options=dict(cluster_options or {}),
    )


def compare(
    trace: Trace, policies: Sequence[str | Policy], gpus: int = 64, **options: Any
) -> list[Result]:
    """`simulate` for each of several policies, in order."""
    return [simulate(trace, policy, gpus, **options) for policy in policies]
