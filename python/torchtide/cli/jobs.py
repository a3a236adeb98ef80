"""The commands about jobs: ps, limit, pause, resume, explain, policy, shutdown."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Final

from torchtide import errors
from torchtide.cli import core, elastic_orders, exits, ranks, run, text
from torchtide.cli.client import Daemon, open_daemon, suggesting
from torchtide.cli.edges import Edges

#: What the daemon may take to write its answer, on top of what it waits for the job.
_ANSWER_MARGIN_S: Final = 5.0
#: A limit that is advised is a multiple of this: what does not move grows a little all the time.
_LIMIT_STEP_BYTES: Final = 16 << 20


def ps(edges: Edges, json_output: bool) -> int:
    """Lists the jobs; without a daemon there are none, and the exit code says so."""
    try:
        with open_daemon(edges.connect) as daemon:
            jobs = daemon.query("ps").get("jobs", [])
    except errors.DaemonUnavailable as error:
        if json_output:
            exits.emit_json({"jobs": []})
        print(f"{error.available}; {error.advice}", file=sys.stderr)
        return exits.UNAVAILABLE
    if json_output:
        exits.emit_json({"jobs": jobs})
        return exits.OK
    if not jobs:
        print("no jobs; `tide run -- python train.py` starts one")
        return exits.OK
    from torchtide.cli import render

    console = render.console()
    console.print(render.jobs_table(jobs, console.width))
    return exits.OK


def limit(edges: Edges, job: str, size: str, timeout_s: float, json_output: bool) -> int:
    """Sets the budget of a job and tells what that moved."""
    whole = elastic_orders.find(job)
    if whole is not None:
        data = _whole_limit(edges, whole, size, timeout_s)
        pending = data["status"] == "pending"
        sentence = elastic_orders.limit_sentence(data)
        _show(json_output, {"ok": not pending, **data}, lambda: print(text.fold(sentence)))
        return exits.DEADLINE if pending else exits.OK
    data, wanted = _ordered_limit(edges, job, size, timeout_s)
    status, name = str(data.get("status", "applied")), str(data.get("job") or job)
    if json_output:
        exits.emit_json({"ok": status != "pending", **data})
    else:
        print(text.fold(_limit_sentence(data, name, wanted, status)))
    return exits.DEADLINE if status == "pending" else exits.OK


def limit_device(
    edges: Edges, job: str, size: str, device: int, timeout_s: float, json_output: bool
) -> int:
    """Sets the limit of a job on one GPU and tells what that moved."""
    asked = f"tide limit {job} {size} --device {device}"
    if size.strip().endswith("%"):
        raise errors.OptionError(
            "the daemon does not know how large a GPU is",
            asked=asked,
            advice="give a size such as 40GiB; `tide doctor` shows the GPU's",
        )
    if device < 0:
        raise errors.OptionError("a GPU's index is 0 or more", asked=asked, advice="see `tide ps`")
    if elastic_orders.find(job) is not None:
        raise errors.OptionError(
            f"{job} is an elastic job, and those run on the CPU",
            asked=asked,
            advice=f"`tide limit {job} SIZE` without --device",
        )
    wanted = _fixed_bytes(size, asked)
    with (
        open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon,
        suggesting(daemon, job),
    ):
        data = daemon.command(
            "limit_device", job=job, device=device, bytes=wanted, timeout_ms=_timeout_ms(timeout_s)
        )
    name = text.clean(str(data.get("job") or job))
    shown = core.format_bytes(wanted) if wanted else "none"
    sentence = f"limit of {name} on GPU {device} is {shown}{_took(data)}"
    if "; moved" in str(data.get("text")):
        sentence += ": " + str(data["text"]).rpartition("; ")[2]
    _show(json_output, {"ok": True, **data}, lambda: print(text.fold(sentence)))
    return exits.OK


def order_limit(edges: Edges, job: str, size: str, timeout_s: float) -> str:
    """Sets the budget of a job; what came of it as a sentence."""
    whole = elastic_orders.find(job)
    if whole is not None:
        return elastic_orders.limit_sentence(_whole_limit(edges, whole, size, timeout_s))
    data, wanted = _ordered_limit(edges, job, size, timeout_s)
    name, status = str(data.get("job") or job), str(data.get("status", "applied"))
    return _limit_sentence(data, name, wanted, status)


def _whole_limit(
    edges: Edges, whole: elastic_orders.ElasticJob, size: str, timeout_s: float
) -> dict[str, Any]:
    """Sets the budget of an elastic job."""
    asked = f"tide limit {whole.name} {size}"
    _timeout_ms(timeout_s)
    if size.strip().endswith("%"):
        with open_daemon(edges.connect) as daemon:
            return whole.limit(_share_of_capacity(daemon, size, asked), timeout_s)
    return whole.limit(_fixed_bytes(size, asked), timeout_s)


def _ordered_limit(
    edges: Edges, job: str, size: str, timeout_s: float
) -> tuple[dict[str, Any], int]:
    """The daemon's answer to a limit, and the bytes that `size` stood for."""
    asked = f"tide limit {job} {size}"
    timeout_ms = _timeout_ms(timeout_s)
    fixed = None if size.strip().endswith("%") else _fixed_bytes(size, asked)
    with open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon:
        wanted = _share_of_capacity(daemon, size, asked) if fixed is None else fixed
        try:
            with suggesting(daemon, job):
                data = daemon.command("limit", job=job, bytes=wanted, timeout_ms=timeout_ms)
        except errors.LimitConflict as error:
            raise _conflict(error, job) from error
    if data.get("status") == "stale":
        raise errors.Stale(
            "a newer limit overtook this one",
            asked=asked,
            advice=f"`tide explain {data.get('job') or job}` says which",
        )
    return data, wanted


def pause(
    edges: Edges, job: str, timeout_s: float, json_output: bool, *, deep: bool = False
) -> int:
    """Takes all memory of a job away at its next boundary; tells beforehand how long that takes.

    With `deep` the job's CUDA contexts too, where its driver and the job allow that; it is said
    where they do not.
    """
    whole = elastic_orders.find(job)
    if whole is not None and deep:
        raise errors.OptionError(
            "the processes of an elastic job are paused together, and not deeply",
            asked=f"tide pause {job} --deep",
            advice=f"`tide pause {job}`, or start it with TIDE_CUDA_PAUSE=deep",
        )
    if whole is not None:
        _timeout_ms(timeout_s)
        data = whole.pause(timeout_s)
        _show(json_output, {"ok": True, **data}, lambda: print(_pause_sentence(data, job)))
        return exits.OK
    if names := ranks.of(edges, job):
        _timeout_ms(timeout_s)
        data = ranks.pause(edges, job, names, timeout_s, deep=deep)
        sentence = _pause_sentence(data, job, deep=deep)
        _show(json_output, {"ok": True, **data}, lambda: print(text.fold(sentence)))
        return exits.OK
    with (
        open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon,
        suggesting(daemon, job),
    ):
        record = _record(daemon, job)
        predicted = record.get("predicted_suspend_ms")
        if predicted and not json_output:
            print(
                f"pausing {text.clean(job)}: about {text.duration_ms(float(predicted))}", flush=True
            )
        asked = {"deep": True} if deep else {}
        data = daemon.command("pause", job=job, timeout_ms=_timeout_ms(timeout_s), **asked)
    if json_output:
        exits.emit_json({"ok": True, "predicted_ms": predicted, **data})
        return exits.OK
    print(text.fold(_pause_sentence(data, job, deep=deep)))
    return exits.OK


def order_pause(edges: Edges, job: str, timeout_s: float) -> str:
    """Pauses a job; what came of it as a sentence."""
    whole = elastic_orders.find(job)
    if whole is not None:
        return _pause_sentence(whole.pause(timeout_s), job)
    with open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon:
        data = daemon.command("pause", job=job, timeout_ms=_timeout_ms(timeout_s))
    return _pause_sentence(data, job)


def _pause_sentence(data: dict[str, Any], job: str, *, deep: bool = False) -> str:
    name = text.clean(str(data.get("job") or job))
    if data.get("status") == "already_paused":
        said = f"{name} was paused already"
        return said + f", and --deep changed nothing: `tide resume {name}` first" if deep else said
    said = f"{name}{_ranks(data)} is paused{_took(data)}; `tide resume {name}` continues it"
    _, begin, rest = str(data.get("text", "")).partition("; its contexts ")
    if begin:
        return f"{said}. Its contexts {text.clean(rest)}"
    if deep:  # of a torchtide that knows no other
        return f"{said}. It is an ordinary pause: the job said nothing of its contexts"
    return said


def resume(edges: Edges, job: str, timeout_s: float, json_output: bool) -> int:
    """Brings a paused job back."""
    whole = elastic_orders.find(job)
    if whole is not None:
        _timeout_ms(timeout_s)
        data = whole.resume(timeout_s)
        _show(json_output, {"ok": True, **data}, lambda: print(_resume_sentence(data, job)))
        return exits.OK
    if names := ranks.of(edges, job):
        _timeout_ms(timeout_s)
        data = ranks.resume(edges, job, names, timeout_s)
        _show(json_output, {"ok": True, **data}, lambda: print(_resume_sentence(data, job)))
        return exits.OK
    with (
        open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon,
        suggesting(daemon, job),
    ):
        data = daemon.command("resume", job=job, timeout_ms=_timeout_ms(timeout_s))
    if json_output:
        exits.emit_json({"ok": True, **data})
        return exits.OK
    print(_resume_sentence(data, job))
    return exits.OK


def order_resume(edges: Edges, job: str, timeout_s: float) -> str:
    """Brings a paused job back; what came of it as a sentence."""
    whole = elastic_orders.find(job)
    if whole is not None:
        return _resume_sentence(whole.resume(timeout_s), job)
    with open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon:
        data = daemon.command("resume", job=job, timeout_ms=_timeout_ms(timeout_s))
    return _resume_sentence(data, job)


def _resume_sentence(data: dict[str, Any], job: str) -> str:
    name = text.clean(str(data.get("job") or job))
    already = data.get("status") == "already_running"
    if already:
        return f"{name} was running already"
    return f"{name}{_ranks(data)} goes on{_took(data)}"


def explain(edges: Edges, job: str, json_output: bool) -> int:
    """Prints why a job is as it is, in the daemon's words."""
    data, lines = explanation(edges, job)
    if json_output:
        exits.emit_json(data)
        return exits.OK
    for line in lines:
        print(text.fold(line, len(line) - len(line.lstrip()) + 4))
    return exits.OK


def explanation(edges: Edges, job: str) -> tuple[dict[str, Any], list[str]]:
    """Why a job is as it is: the daemon's answer, and its lines."""
    whole = None if job.endswith("]") else elastic_orders.find(job)
    if whole is not None:
        return _explained_whole(edges, whole)
    with open_daemon(edges.connect) as daemon, suggesting(daemon, job):
        data = daemon.query("explain", job=job)
    lines = [str(data.get("text") or f"{job} is {data.get('state', 'unknown')}")]
    if data.get("ahead"):
        lines.append("ahead of it: " + ", ".join(map(str, data["ahead"])))
    lines += [f"do: {advice}" for advice in data.get("advice", [])]
    events = data.get("events", [])
    lines += ["lately:"] if events else []
    for event in events:
        when = text.local_time(float(event.get("time", 0)), edges.now())
        lines.append(f"  {when}  {event.get('text', '')}")
    return data, lines


def _explained_whole(
    edges: Edges, whole: elastic_orders.ElasticJob
) -> tuple[dict[str, Any], list[str]]:
    """The job as one, then what the daemon, if there is any, says of each of its processes."""
    report, lines = whole.report(), whole.explain()
    processes: list[dict[str, Any]] = []
    data = {"job": whole.name, "elastic": report, "text": lines[0], "processes": processes}
    try:
        with open_daemon(edges.connect) as daemon:
            for record in daemon.query("ps").get("jobs", []):
                if record.get("pid") not in report["pids"]:
                    continue
                found = daemon.query("explain", job=str(record["name"]))
                processes.append(found)
                lines.append(f"  {text.clean(str(found.get('text') or record['name']))}")
    except errors.TideError:
        pass  # an elastic job needs no daemon
    return data, lines


def priority(edges: Edges, job: str, level: str, timeout_s: float, json_output: bool) -> int:
    """Sets whom a job goes before and whom it gives way to."""
    data, sentence = _ordered_priority(edges, job, level, timeout_s)
    _show(json_output, {"ok": True, **data}, lambda: print(text.fold(sentence)))
    return exits.OK


def order_priority(edges: Edges, job: str, level: str, timeout_s: float) -> str:
    """Sets a priority; what came of it as a sentence."""
    return _ordered_priority(edges, job, level, timeout_s)[1]


def _ordered_priority(
    edges: Edges, job: str, level: str, timeout_s: float
) -> tuple[dict[str, Any], str]:
    with (
        open_daemon(edges.connect, timeout_s + _ANSWER_MARGIN_S) as daemon,
        suggesting(daemon, job),
    ):
        timeout_ms = _timeout_ms(timeout_s)
        data = daemon.command("priority", job=job, priority=level, timeout_ms=timeout_ms)
    return data, str(data.get("text") or f"priority of {data.get('job', job)} is {level}")


def policy(edges: Edges, words: list[str], json_output: bool) -> int:
    """Lists the lanes, or gives one of them another turn policy.

    Args:
        edges: The world outside.
        words: Nothing, a policy (of lane 0), or a lane and a policy.
        json_output: Print one object.
    """
    if not words:
        with open_daemon(edges.connect) as daemon:
            lanes = daemon.query("status").get("lanes", [])
        _show(json_output, {"lanes": lanes}, lambda: _print_lanes(lanes))
        return exits.OK
    *before, name = words
    lane = before[0] if before else "0"
    if len(words) > 2 or name.isdigit() or not lane.isdigit():
        raise errors.OptionError(
            "neither a policy nor a lane and a policy",
            asked=f"tide policy {' '.join(words)}",
            advice="`tide policy 0 fair` (or fifo, rr, srtf, pack, priority)",
        )
    with open_daemon(edges.connect) as daemon:
        data = daemon.command("policy", lane=int(lane), policy=name)
    sentence = str(data.get("text") or f"lane {lane} goes by {name}")
    _show(json_output, {"ok": True, **data}, lambda: print(text.fold(sentence)))
    return exits.OK


def shutdown(edges: Edges, json_output: bool) -> int:
    """Ends the daemon; jobs train on with their last limits."""
    with open_daemon(edges.connect) as daemon:
        data = daemon.command("shutdown")
    sentence = str(data.get("text") or "the daemon has ended; jobs train on with their last limits")
    _show(json_output, {"ok": True, **data}, lambda: print(text.fold(sentence)))
    return exits.OK


def job_names(edges: Edges) -> list[str]:
    """Names of the jobs for completion in the shell; empty when nobody answers."""
    try:
        with open_daemon(edges.connect, 0.5) as daemon:
            return [str(job["name"]) for job in daemon.query("ps").get("jobs", [])]
    except (errors.TideError, KeyError):
        return []


def _show(json_output: bool, data: dict[str, Any], show: Callable[[], None]) -> None:
    if json_output:
        exits.emit_json(data)
    else:
        show()


def _print_lanes(lanes: list[dict[str, Any]]) -> None:
    if not lanes:
        print("no lanes yet; the first job makes one")
        return
    from torchtide.cli import render

    render.console().print(render.lanes_table(lanes))


def _record(daemon: Daemon, job: str) -> dict[str, Any]:
    jobs = daemon.query("ps").get("jobs", [])
    return next(
        (record for record in jobs if job in (record.get("name"), str(record.get("id")))), {}
    )


def _timeout_ms(timeout_s: float) -> int:
    if not math.isfinite(timeout_s) or not 0 < timeout_s <= 86400:
        raise errors.OptionError(
            "a deadline is between 0 and 86400 seconds",
            asked=f"--timeout {timeout_s}",
            advice="--timeout 30",
        )
    return max(1, round(timeout_s * 1000))


def _fixed_bytes(size: str, asked: str) -> int:
    return 0 if size.strip().lower() == "none" else run.parse_size(size, asked)


def _share_of_capacity(daemon: Daemon, size: str, asked: str) -> int:
    """Bytes of "60%": a share of the device's capacity."""
    try:
        percent = float(size.strip().rstrip("%"))
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise errors.OptionError(
            "a percentage is above 0 and at most 100",
            asked=asked,
            advice="write 60% or a size such as 2GiB",
        )
    capacity = int(daemon.query("status").get("capacity") or 0)
    if not capacity:
        raise errors.OptionError(
            "the device has no stated capacity to take a share of",
            asked=asked,
            advice="write a size such as 2GiB, or state one: TIDE_CAPACITY=8GiB",
        )
    return int(capacity * percent / 100)


def _conflict(error: errors.LimitConflict, name: str) -> errors.LimitConflict:
    """The daemon's refusal of a limit with the sizes it is made of and a limit that would do."""
    parts = dict(error.parts)
    least = parts.pop("smallest", sum(parts.values()))
    if not least:
        return error
    enough = -(-least // _LIMIT_STEP_BYTES) * _LIMIT_STEP_BYTES
    return errors.LimitConflict(
        f"{name} cannot run in less than {core.format_bytes(least)}; the old limit stays",
        advice=f"`tide limit {name} {_typed(enough)}`, or `tide pause {name}` for all of it",
        parts=parts,
    )


def _limit_sentence(data: dict[str, Any], name: str, wanted: int, status: str) -> str:
    size = core.format_bytes(wanted) if wanted else "none"
    if status == "pending":
        return f"limit of {name} will be {size}: no answer yet, it follows at its next iteration"
    if status == "deferred":
        return f"limit of {name} will be {size} at its next iteration"
    moved = int(data.get("moved_bytes") or 0)
    effect = (
        f"moved {core.format_bytes(moved)}{_took(data)}"
        if moved
        else f"nothing had to move{_took(data)}"
    )
    before = data.get("previous")
    undo = "" if before is None else f"; undo: tide limit {name} {_typed(int(before))}"
    return f"limit of {name} is {size}: {effect}{undo}"


def _typed(size_bytes: int) -> str:
    """A size as it can be typed: short where that is exact."""
    short = core.format_bytes(size_bytes).replace(" ", "")
    if not size_bytes:
        return "none"
    return short if core.parse_bytes(short, short) == size_bytes else str(size_bytes)


def _ranks(data: dict[str, Any]) -> str:
    count = len(data.get("ranks", ()))
    return f" ({count} rank{'s' if count > 1 else ''})" if count else ""


def _took(data: dict[str, Any]) -> str:
    took = float(data.get("took_ms") or 0)
    return f" in {text.duration_ms(took)}" if took > 0 else ""
