"""A daemon in the test's own process, behind the interface of `_core.Client`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]

GIB = 1 << 30
MIB = 1 << 20


def job_record(name: str, **changes: Any) -> dict[str, Any]:
    """A job as `ps` gives it."""
    record = {
        "id": 1,
        "name": name,
        "pid": 4711,
        "state": "running",
        "attached": True,
        "priority": "normal",
        "limit": 2 * GIB,
        "guaranteed": 0,
        "resident": 812 * MIB,
        "demoted": 300 * MIB,
        "outside": 310 * MIB,
        "persistent": 500 * MIB,
        "scratch_peak": 612 * MIB,
        "peak": 1 * GIB,
        "iterations": 12345,
        "steps_per_s": 12.42,
        "step_ms": 80.5,
        "lane": 0,
        "turn": False,
        "slot": 0,
        "revision": 1,
        "predicted_suspend_ms": 700.0,
        "script": "train.py",
        "started": 1.0,
    }
    return {**record, **changes}


class FakeDaemon:
    """Answers from plain data; `commands` keeps what was asked of it."""

    def __init__(self, *jobs: dict[str, Any]) -> None:
        self.jobs = list(jobs)
        self.events: list[dict[str, Any]] = []
        self.followed: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.capacity = 8 * GIB
        self.lanes = [
            {
                "id": 0,
                "policy": "fair",
                "holder": "train",
                "handovers": 1204,
                "scratch_bytes": 612 * MIB,
                "members": ["train", "bert"],
            }
        ]
        self.opened = 0

    def connect(self, path: str, timeout_s: float) -> FakeDaemon:
        """The client factory that `Edges` takes."""
        self.opened += 1
        return self

    def request(self, kind: str, body: bytes, timeout_s: float) -> tuple[str, bytes]:
        asked = msgpack.unpackb(body)
        answer: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"_{kind.lower()}")
        return "Answer", msgpack.packb(answer(asked))

    def next(self, timeout_s: float) -> tuple[str, bytes] | None:
        if not self.followed:
            raise KeyboardInterrupt
        return "Event", msgpack.packb(self.followed.pop(0))

    def close(self) -> None:
        pass

    def _query(self, body: dict[str, Any]) -> dict[str, Any]:
        what = body["what"]
        if what in self.answers:
            return self.answers[what]
        if what == "events":
            events = [e for e in self.events if body.get("job", "") in ("", e["job"])]
            return _data(events=events[-body["count"] :] if body["count"] else events, last_seq=9)
        if what == "status":
            used = sum(job["resident"] + job["outside"] for job in self.jobs)
            return _data(
                version="0.1.0",
                pid=7,
                uptime_s=60.0,
                capacity=self.capacity,
                used=used,
                lanes=self.lanes,
                jobs=self.jobs,
            )
        if what == "explain":
            return self._of_job(body, lambda job: {"job": job["name"], "text": "it waits"})
        return _data(jobs=self.jobs)

    def _command(self, body: dict[str, Any]) -> dict[str, Any]:
        self.commands.append(body)
        what = body["what"]
        if what in self.answers:
            return self.answers[what]
        if what == "limit":
            return self._of_job(body, lambda job: self._limited(job, body["bytes"]))
        if what in ("pause", "resume"):
            return self._of_job(
                body, lambda job: {"job": job["name"], "status": "done", "took_ms": 680.0}
            )
        return _data()

    def _limited(self, job: dict[str, Any], size: int) -> dict[str, Any]:
        previous, job["limit"] = job["limit"], size
        return {
            "job": job["name"],
            "revision": 2,
            "status": "applied",
            "limit": size,
            "previous": previous,
            "moved_bytes": 512 * MIB,
            "took_ms": 140.0,
        }

    def _of_job(
        self, body: dict[str, Any], data: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        for job in self.jobs:
            if body["job"] in (job["name"], str(job["id"])):
                return {"ok": True, "data": data(job)}
        return error("not_found", f"no job {body['job']}")


def error(code: str, message: str, advice: str = "") -> dict[str, Any]:
    """An Answer that says no."""
    return {"ok": False, "error": {"code": code, "message": message, "advice": advice}}


def _data(**data: Any) -> dict[str, Any]:
    return {"ok": True, "data": data}
