"""`tide pause` and `resume` of all ranks of a job, `train[0]` and on, by its name alone.

Each rank stops at its own boundary, so all are asked at once: one that is asked later could be in a
collective that waits for those that have stopped.
"""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from torchtide.cli.client import open_daemon
from torchtide.cli.edges import Edges
from torchtide.cli.text import clean
from torchtide.errors import TideError

_RANK: Final = re.compile(r"(.+)\[(\d+)\]$")
#: What the daemon may take to write its answer, on top of what it waits for the job.
_ANSWER_MARGIN_S: Final = 5.0


def of(edges: Edges, job: str) -> list[str]:
    """Names of the live ranks of `job` by rank; empty where a job has that name itself, or none."""
    with open_daemon(edges.connect) as daemon:
        records = daemon.query("ps").get("jobs", [])
    if any(job in (record.get("name"), str(record.get("id"))) for record in records):
        return []
    found: dict[int, str] = {}
    for record in records:
        matched = _RANK.match(str(record.get("name", "")))
        if matched and matched[1] == job and record.get("attached", True):
            found[int(matched[2])] = matched[0]
    return [found[rank] for rank in sorted(found)]


def pause(
    edges: Edges, job: str, names: list[str], timeout_s: float, *, deep: bool = False
) -> dict[str, Any]:
    """Pauses all of them, or none; with `deep` the text says why the contexts of one stayed.

    Raises:
        TideError: One of them could not be; those that this call has paused go on again.
    """
    answers, error = _each(edges, names, "pause", timeout_s, **({"deep": True} if deep else {}))
    if error is not None:
        paused = [name for name, data in answers.items() if data.get("status") != "already_paused"]
        _each(edges, paused, "resume", timeout_s)
        raise error
    said = [str(one.get("text") or "") for one in answers.values()]
    text = next((words for words in said if "contexts stayed" in words), said[0])
    return _told(job, answers, "already_paused") | {"text": text}


def resume(edges: Edges, job: str, names: list[str], timeout_s: float) -> dict[str, Any]:
    """Lets all of them go on.

    Raises:
        TideError: One of them does not; the others do.
    """
    answers, error = _each(edges, names, "resume", timeout_s)
    if error is not None:
        raise error
    return _told(job, answers, "already_running")


def _each(
    edges: Edges, names: list[str], order: str, timeout_s: float, **fields: Any
) -> tuple[dict[str, dict[str, Any]], TideError | None]:
    """Answers of those that obeyed, and the first error of the others."""
    if not names:
        return {}, None

    def give(name: str) -> dict[str, Any]:
        with open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon:
            return daemon.command(order, job=name, timeout_ms=round(timeout_s * 1000), **fields)

    with ThreadPoolExecutor(len(names)) as pool:
        asked: dict[str, Future[dict[str, Any]]] = {n: pool.submit(give, n) for n in names}
    answers: dict[str, dict[str, Any]] = {}
    error: TideError | None = None
    for name, future in asked.items():
        try:
            answers[name] = future.result()
        except TideError as refused:
            refused.available = f"{clean(name)}: {refused.available}"
            error = error or refused
    return answers, error


def _told(job: str, answers: dict[str, dict[str, Any]], already: str) -> dict[str, Any]:
    every = list(answers.values())
    return {
        "job": job,
        "status": already if all(one.get("status") == already for one in every) else "done",
        "took_ms": max(float(one.get("took_ms") or 0) for one in every),
        "ranks": every,
    }
