"""`tide doctor`: a list of checks of this machine, each ok, warn or fail with one fix."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any, Final

from torchtide import _launch, errors
from torchtide.cli import checks, checks_gpu, core, exits, text
from torchtide.cli.checks import FAIL, OK, WARN, Finding, Host
from torchtide.cli.client import open_daemon
from torchtide.cli.edges import Edges

_STYLES: Final = {OK: "green", WARN: "yellow", FAIL: "red"}


def doctor(edges: Edges, json_output: bool, *, gpu: bool = False, host: Host | None = None) -> int:
    """Prints the findings; the exit code is 1 when one of them is a failure."""
    findings = list(examine(edges, host or Host(environ=edges.environ)))
    if gpu:
        findings += _guarded("device hook", lambda: checks_gpu.examine(edges.environ))
    worst = exits.FAILED if any(finding.level == FAIL for finding in findings) else exits.OK
    if json_output:
        exits.emit_json(
            {"ok": worst == exits.OK, "checks": [vars(finding) for finding in findings]}
        )
        return worst
    from rich.text import Text

    from torchtide.cli import render

    console = render.console()
    for finding in findings:
        line = Text(f"{finding.level:<5}", style=_STYLES[finding.level])
        line.append(f"{finding.name}: ", style="bold")
        line.append(text.clean(finding.found), style="not bold")
        console.print(line)
        if finding.fix:
            console.print(Text(f"     fix: {text.clean(finding.fix)}"))
    return worst


def examine(edges: Edges, host: Host) -> Iterator[Finding]:
    """All checks in order; one that breaks is itself a finding."""
    for check in checks.ALL:
        yield from _guarded(check.__name__, lambda check=check: check(host))  # type: ignore[misc]
    yield from _guarded("daemon", lambda: [_daemon(edges)])


def package_version() -> str:
    """Version of the installed package, or of the source tree."""
    import torchtide

    stated = getattr(torchtide, "__version__", None)
    if stated:
        return str(stated)
    try:
        return importlib.metadata.version("torchtide")
    except importlib.metadata.PackageNotFoundError:
        return "(source tree)"


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except errors.TideError as error:
        return [Finding(name, FAIL, error.available, error.advice)]
    except Exception as error:  # a machine that surprises us is still worth the other checks
        return [Finding(name, WARN, f"could not be checked: {type(error).__name__}: {error}")]


def _daemon(edges: Edges) -> Finding:
    """The daemon answers, and is of this version."""
    path = _launch.socket_path(core.runtime_dir())
    try:
        with open_daemon(edges.connect) as daemon:
            status: dict[str, Any] = daemon.query("status")
    except errors.DaemonUnavailable as error:
        if path.exists() and not _launch.daemon_answers(path):
            return Finding(
                "daemon", OK, "none is running (it left its socket behind; the next one takes it)"
            )
        if error.advice.endswith("starts one"):
            return Finding("daemon", OK, f"none is running; {error.advice}")
        return Finding(
            "daemon", FAIL, error.available, "run `tide shutdown`, then `tide run` again"
        )
    ours, theirs = package_version(), str(status.get("version"))
    jobs = len(status.get("jobs", []))
    if ours != theirs and ours[:1].isdigit():
        return Finding(
            "daemon",
            WARN,
            f"it is {theirs}, this is {ours}",
            "tide shutdown; the next `tide run` starts the new one",
        )
    return Finding("daemon", OK, f"{theirs}, pid {status.get('pid')}, {jobs} jobs")
