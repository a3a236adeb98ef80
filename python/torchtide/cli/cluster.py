"""The commands about a cluster: submit, cluster, reserve, and the preview of a start."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torchtide import errors
from torchtide.cli import exits, moves
from torchtide.cli.client import Daemon, open_daemon
from torchtide.cli.edges import Edges

_POLL_S: Final = 0.5
_SHOWN_JOBS: Final = 50


@dataclasses.dataclass(frozen=True)
class Request:
    """What a job asks the cluster for."""

    name: str
    devices: int
    devices_max: int = 0
    user: str = ""
    estimate_s: float = 0.0
    deadline_s: float = 0.0
    tier: str = "standard"
    leaving: moves.Leaving | None = None  # how it is carried over; None: it is not movable
    profile: Mapping[str, Any] | None = None  # how it behaves, as `profiles.parse` says it

    def fields(self) -> dict[str, Any]:
        """As a Submit frame has them."""
        known = {} if self.profile is None else {"profile": dict(self.profile)}
        return {
            **known,
            "key": self.name,
            "user": self.user or getpass.getuser(),
            "devices": self.devices,
            "devices_max": self.devices_max,
            "estimate_s": float(self.estimate_s),
            "deadline_s": float(self.deadline_s),
            "tier": self.tier,
            "movable": self.leaving is not None,
        }


def submit(
    edges: Edges,
    request: Request,
    command: Sequence[str],
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Asks for devices, runs `command` while it has them, and gives them back.

    The command is started once its gang is granted, with TIDE_JOB_NAME and with TIDE_NODES such as
    `m1:2,m2:2`; where its processes run is its own affair. A movable one is started again where the
    coordinator moves it, with TIDE_STARTS counting. Ends with the code of the command.
    """
    with moves.ending_by_sigterm():
        return _submit(edges, request, command, wait)


def _submit(
    edges: Edges, request: Request, command: Sequence[str], wait: Callable[[float], None]
) -> int:
    with _connected(edges) as daemon:
        said = daemon.ask("Submit", request.fields())
        print(said.get("text", request.name), flush=True)
        try:
            placed = _wait_for_start(daemon, request.name, wait)
        except BaseException:
            daemon.ask("Finish", {"key": request.name, "exit_code": 130})
            raise
    code = 1
    try:
        if request.leaving is not None:
            code = moves.Carrier(edges, request.name, request.leaving, command, wait).run()
        else:
            code = _run(edges, request, command, placed)
    finally:
        _finish(edges, request.name, code, wait)
    return code


def _finish(edges: Edges, name: str, code: int, wait: Callable[[float], None]) -> None:
    """Gives the devices back, when the daemon is there again; known no more is given back."""
    with contextlib.suppress(errors.NoSuchJob):
        moves.patiently(
            edges, lambda daemon: daemon.ask("Finish", {"key": name, "exit_code": code}), wait, name
        )


def move(edges: Edges, name: str, to: str, json_output: bool) -> int:
    """Asks for a running job to be carried to other nodes; who submitted it does it."""
    with _connected(edges) as daemon:
        data = daemon.ask("Move", {"key": name, "to": to})
    exits.emit_json(data) if json_output else print(data.get("text", ""))
    return exits.OK


def drain(edges: Edges, node: str, undo: bool, json_output: bool) -> int:
    """Has a node emptied, or lets it take jobs again."""
    with _connected(edges) as daemon:
        data = daemon.ask("Drain", {"node": node, "undo": undo})
    exits.emit_json(data) if json_output else print(data.get("text", ""))
    return exits.OK


def preview(edges: Edges, request: Request, json_output: bool) -> int:
    """Says when a job would start: an open one by its name, another by what it asks for."""
    with _connected(edges) as daemon:
        if request.devices > 0:
            data = daemon.ask("Submit", {**request.fields(), "preview": True})
        else:
            data = daemon.query("preview", job=request.name)
    exits.emit_json(data) if json_output else print(data.get("text", ""))
    return exits.OK


def reserve(
    edges: Edges,
    name: str,
    devices: int,
    user: str,
    times_s: tuple[float, float],
    json_output: bool,
) -> int:
    """Keeps devices for a user's jobs; `times_s` are begin, counted from now, and length."""
    fields = {"name": name, "user": user, "devices": devices}
    with _connected(edges) as daemon:
        data = daemon.ask("Reserve", {**fields, "from_s": times_s[0], "for_s": times_s[1]})
    exits.emit_json(data) if json_output else print(data.get("text", ""))
    return exits.OK


def write_trace(edges: Edges, file: Path, json_output: bool) -> int:
    """Writes what the jobs that have ended took; the file is there whole or not at all."""
    draft = file.with_name(f"{file.name}.draft")
    jobs, since = 0, 0
    try:
        with draft.open("w", encoding="utf-8") as out, _connected(edges) as daemon:
            while since >= 0:
                page = daemon.query("trace", since=since)
                out.write(page["csv"])
                jobs, since = jobs + page["jobs"], page["next"]
            devices = daemon.query("cluster")["devices"]
        draft.replace(file)
    except OSError as error:
        raise errors.OptionError(
            f"{file} cannot be written: {error.strerror}", asked=f"--trace {file}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    if json_output:
        exits.emit_json({"file": str(file), "jobs": jobs, "devices": devices})
    else:
        print(f"{file}: {jobs} jobs that have ended")
        if jobs:
            print(f"for instance: tide simulate {file} --cluster {devices} --policy srtf")
    return exits.OK


def show(edges: Edges, json_output: bool) -> int:
    """Prints nodes, users and jobs of the cluster."""
    with _connected(edges) as daemon:
        data = daemon.query("cluster")
    if json_output:
        exits.emit_json(data)
        return exits.OK
    if not data.get("serving"):
        print("this daemon serves no cluster and has joined none; see `tided --help`")
        return exits.OK
    from torchtide.cli import render

    held = data["devices"] - data["devices_free"]
    print(
        f"{data['policy']}: {held} of {data['devices']} devices held, "
        f"{data['jobs_running']} of {data['jobs_open']} jobs run"
    )
    nodes = [
        [node["name"], f"{node['used']}/{node['devices']}", _node_state(node)]
        for node in data["nodes"]
    ]
    render.console().print(render.pairs_table(["NODE", "USED", "STATE"], nodes))
    for job in data["jobs"][:_SHOWN_JOBS]:
        print(f"{job['key']} ({job['user']}), {job['state']}: {job['text']}")
    if len(data["jobs"]) > _SHOWN_JOBS:
        print(f"and {data['jobs_open'] - _SHOWN_JOBS} more; --json lists them")
    return exits.OK


def _node_state(node: Mapping[str, Any]) -> str:
    if not node["works"]:
        return "lost"
    return "is emptied" if node.get("drains") else "works"


def _connected(edges: Edges) -> contextlib.AbstractContextManager[Daemon]:
    return open_daemon(edges.connect)


def _wait_for_start(daemon: Daemon, name: str, wait: Callable[[float], None]) -> Mapping[str, int]:
    """Waits until the gang is granted; says why not each time that the reason is another one.

    `explain` would answer for a job of this machine that has, or had, the same name.
    """
    last = ""
    while True:
        data = daemon.query("placement", job=name)
        if data.get("state") == "running":
            nodes: dict[str, int] = data.get("nodes", {})
            return nodes
        reason = str(data.get("text", ""))
        if reason != last:
            print(reason, flush=True)
            print(daemon.query("preview", job=name).get("text", ""), flush=True)
        last = reason
        wait(_POLL_S)


def _run(
    edges: Edges,
    request: Request,
    command: Sequence[str],
    placed: Mapping[str, int],
) -> int:
    """Runs the command to its end. An elastic one follows its grants by its machine's daemon."""
    nodes = moves.nodes_text(placed)
    print(f"{request.name} runs on {nodes}", flush=True)
    environ = {**edges.environ, "TIDE_JOB_NAME": request.name, "TIDE_NODES": nodes}
    process = moves.start(command, environ)
    with moves.passing_signals(process):
        code = process.wait()
    return code if code >= 0 else 128 - code
