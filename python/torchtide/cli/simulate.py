"""`tide simulate`: a trace of jobs through cluster policies in virtual time, compared."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torchtide.cli import core, exits
from torchtide.errors import OptionError, TideError

Result = dict[str, Any]

#: A node of a cluster that is given as a number, with `--placement node`.
GPUS_PER_NODE: Final = 8
_ROUNDED: Final = ("avg_jct_s", "median_jct_s", "p99_jct_s", "makespan_s", "avg_wait_s")
#: In the order of the JSON object; the first are the columns of tests/sim/traces/goldens.csv.
_FIGURES: Final = (
    *("trace", "gpus", "policy", "jobs_done", "jobs", "avg_jct_s", "median_jct_s", "p99_jct_s"),
    *("makespan_s", "preemptions", "events", "jobs_refused", "evictions", "spread_starts"),
    *("avg_wait_s", "utilisation", "gpu_seconds_lost", "deadlines_met", "deadlines"),
    *("resizes", "shared_starts", "cost"),
)
_POLICY_OPTIONS: Final = (
    "seed",
    "queue_limits_s",
    "starvation_knob",
    "round_s",
    "restart_cost_s",
    "quotas",
    "strict_rounds",
    "profiler_gpus",
    "profiler_limit_s",
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Nodes, GPUs on each, and what the simulator knows about failures and restarts."""

    nodes: int
    gpus_per_node: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """What was typed."""

    trace: Path
    policies: Sequence[str]
    cluster: str
    placement: str
    settings: Sequence[str]
    plot: Path | None
    log: Path | None
    json_output: bool
    elastic: float | None = None
    gantt: Path | None = None
    throughputs: Path | None = None


def simulate(request: Request) -> int:
    """Replays the trace once for each policy and shows the figures side by side."""
    cluster = read_cluster(request.cluster, request.placement)
    options = read_settings(request.settings)
    check_policies(request.policies)
    if request.log is not None and len(request.policies) > 1:
        raise OptionError(
            "--log takes the decisions of one policy", advice="give --policy once with --log"
        )
    if request.gantt is not None and len(request.policies) > 1:
        raise OptionError(
            "--gantt draws the jobs of one policy", advice="give --policy once with --gantt"
        )
    trace = _read_trace(request.trace, request.throughputs)
    if request.elastic is not None:
        _assume_elastic(trace, request.elastic)
    wanted = {"logged": request.log is not None, "spans": request.gantt is not None}
    results = [
        _replay(trace, policy, cluster, options, wanted) for policy in _progress(request.policies)
    ]
    if request.log is not None:
        _write(request.log, results[0]["log"])
    if request.plot is not None:
        _picture(request.plot, "draw", results)
    if request.gantt is not None:
        _picture(request.gantt, "draw_gantt", results[0])
    if request.json_output:
        objects = [figures(result) for result in results]
        print(json.dumps(objects[0] if len(objects) == 1 else objects), flush=True)
    else:
        _show(results)
    return exits.OK


def check_policies(policies: Sequence[str]) -> None:
    """Refuses a name that no policy has, before anything runs."""
    known = [name for name, _ in core.module().cluster_policies()]
    for policy in policies:
        if policy not in (*known, "shortest", "shortest-gpu"):
            raise OptionError(
                f'no cluster policy is called "{policy}"', advice=f"there are {', '.join(known)}"
            )


def read_cluster(text: str, placement: str) -> Cluster:
    """The cluster from a number of GPUs or a TOML file.

    Args:
        text: "64" or the path of a file with `nodes` and `gpus_per_node`, or `[[types]]` of `name`,
            `nodes`, `gpus_per_node`, `cost`; optionally costs, speeds
            (docs/reference/policies.md), `[[faults]]` of `node`, `at_s`, `for_s`, `kind`, `speed`
            and `[[loans]]` of `nodes`, `from_s`, `to_s`.
        placement: "count": only the number of free GPUs matters; "node": gangs are consolidated.

    Raises:
        OptionError: There is no such cluster.
    """
    if placement not in ("count", "node"):
        raise OptionError(
            f'no placement is called "{placement}"', advice="there are count and node"
        )
    spec = {"gpus": int(text)} if text.isascii() and text.isdigit() else _read_spec(Path(text))
    if "gpus" in spec:
        per_node = GPUS_PER_NODE if placement == "node" else int(spec["gpus"])
        nodes, rest = divmod(int(spec["gpus"]), max(per_node, 1))
        if rest or nodes < 1:
            raise OptionError(
                f"{spec['gpus']} GPUs are no whole nodes of {max(per_node, 1)}",
                advice="give a multiple, or a file with nodes and gpus_per_node",
            )
        return Cluster(nodes, per_node)
    nodes, per_node = spec.get("nodes", 1), spec.get("gpus_per_node", 1)
    options: dict[str, Any] = {
        key: value for key, value in spec.items() if key not in ("nodes", "gpus_per_node")
    }
    if placement == "count":
        for what in ("faults", "loans"):
            if options.get(what):
                raise OptionError(
                    f"the cluster has {what} of nodes, placement by count has no nodes",
                    advice="add --placement node",
                )
        for host in ("cpus_per_node", "memory_gib_per_node"):
            if host in options:
                options[host] *= nodes
        nodes, per_node = 1, nodes * per_node
        for kind in options.get("types", []):
            kind.update(nodes=1, gpus_per_node=kind["nodes"] * kind["gpus_per_node"])
    return Cluster(nodes, per_node, options)


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(
            f'"{path}" is neither a number of GPUs nor a file that can be read',
            advice="give --cluster 64 or a TOML file with nodes and gpus_per_node",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is no TOML: {error}", advice="correct the file") from error
    return _checked_spec(path, spec)


#: What a file may say about a cluster, and what about each of its faults and types of GPU.
_NUMBER: Final = (int, float)
_SPEC: Final[Mapping[str, Any]] = {
    "nodes": int,
    "gpus_per_node": int,
    "restart_cost_s": _NUMBER,
    "checkpoint_every_s": _NUMBER,
    "resize_cost_s": _NUMBER,
    "spread_speed": _NUMBER,
    "nodes_per_switch": int,
    "switch_speed": _NUMBER,
    "gpu_memory_gib": _NUMBER,
    "cpus_per_node": _NUMBER,
    "memory_gib_per_node": _NUMBER,
    "share_cost": list,
    "faults": list,
    "types": list,
    "loans": list,
}
_FAULT: Final[Mapping[str, Any]] = {
    "node": int,
    "at_s": _NUMBER,
    "for_s": _NUMBER,
    "kind": str,
    "speed": _NUMBER,
}
_LOAN: Final[Mapping[str, Any]] = {"nodes": int, "from_s": _NUMBER, "to_s": _NUMBER}
_TYPE: Final[Mapping[str, Any]] = {
    "name": str,
    "nodes": int,
    "gpus_per_node": int,
    "cost": _NUMBER,
}


def _check_keys(path: Path, what: str, given: Any, kinds: Mapping[str, Any], need: int) -> None:
    """Refuses keys and values that are not in `kinds`, and the lack of the first `need`."""
    for key, value in dict(given).items():
        if key not in kinds or not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise OptionError(
                f"{path}: {key} = {value!r} says nothing about {what}",
                advice=f"there are {', '.join(kinds)}",
            )
    for key in list(kinds)[:need]:
        if key not in given:
            raise OptionError(f"{path}: {what} has no {key}", advice="add it")


def _checked_spec(path: Path, spec: dict[str, Any]) -> dict[str, Any]:
    _check_keys(path, "a cluster", spec, _SPEC, 0 if spec.get("types") else 2)
    if not all(isinstance(cost, _NUMBER) for cost in spec.get("share_cost", [])):
        raise OptionError(
            f"{path}: share_cost has what is no number", advice="give such as [1, 1.3]"
        )
    for fault in spec.get("faults", []):
        _check_keys(path, "a fault", fault, _FAULT, 3)
    for loan in spec.get("loans", []):
        _check_keys(path, "a loan", loan, _LOAN, 3)
    for kind in spec.get("types", []):
        _check_keys(path, "a type of GPU", kind, _TYPE, 3)
    return spec


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Options of the policies from "NAME=VALUE" words; a list has commas."""
    options: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in _POLICY_OPTIONS:
            raise OptionError(
                f'no option of a policy is called "{name}"',
                advice=f"there are {', '.join(_POLICY_OPTIONS)}",
            )
        try:
            if name in ("queue_limits_s", "quotas"):
                options[name] = [float(part) for part in value.split(",")]
            else:
                whole = name in ("seed", "strict_rounds", "profiler_gpus")
                options[name] = int(value) if whole else float(value)
        except ValueError as error:
            raise OptionError(f'{name} is "{value}"', advice="give a number") from error
    return options


def figures(result: Result) -> Result:
    """The figures of a result as they are written: three decimals, whole numbers without any."""
    shown = {key: result[key] for key in _FIGURES}
    for key in _ROUNDED:
        value = round(float(shown[key]), 3)
        shown[key] = int(value) if value.is_integer() else value
    shown["utilisation"] = round(shown["utilisation"], 4)
    shown["cost"] = round(shown["cost"], 3)
    shown["refused"] = [{"job_id": job, "reason": reason} for job, reason in result["refused"]]
    shown["seconds"] = round(result["seconds"], 6)
    return shown


def _read_trace(path: Path, throughputs: Path | None) -> Any:
    from torchtide.cli import simulate_layouts

    text = simulate_layouts.convert(path, throughputs)
    try:
        if text is not None:
            return core.module().parse_trace(text, path.stem)
        return core.module().read_trace(str(path))
    except (ValueError, KeyError, OSError, MemoryError) as error:
        wrong, _, advice = str(error.args[0] if error.args else error).partition("; ")
        raise OptionError(
            wrong, advice=advice or "give a CSV file with job_id,submit_s,gpus,duration_s"
        ) from error


def _assume_elastic(trace: Any, serial_share: float) -> None:
    try:
        trace.assume_elastic(serial_share)
    except ValueError as error:
        wrong, _, advice = str(error).partition("; ")
        raise OptionError(wrong, advice=advice) from error


def _replay(
    trace: Any,
    policy: str,
    cluster: Cluster,
    options: Mapping[str, Any],
    wanted: Mapping[str, bool],
) -> Result:
    try:
        result: Result = core.module().simulate(
            trace,
            policy,
            cluster.nodes,
            cluster.gpus_per_node,
            policy_options=dict(options),
            cluster_options=dict(cluster.options),
            **wanted,
        )
    except ValueError as error:
        wrong, _, advice = str(error).partition("; ")
        raise OptionError(wrong, advice=advice) from error
    except RuntimeError as error:
        raise TideError(
            f"{policy}: {error}", advice="this is a fault of the policy; report it with the trace"
        ) from error
    return result


def _progress(policies: Sequence[str]) -> Iterator[str]:
    """The policies, with a bar on a terminal while there are several."""
    if len(policies) == 1 or not sys.stderr.isatty():
        yield from policies
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(policies))
        for policy in policies:
            progress.update(task, description=policy)
            yield policy
            progress.advance(task)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written: {error.strerror}", advice="give another path"
        ) from error


def _show(results: Sequence[Result]) -> None:
    from torchtide.cli import render

    first = results[0]
    print(f"{first['trace']}: {first['jobs']} jobs on {first['gpus']} GPUs; times in seconds")
    headers = ["POLICY", "DONE", "AVG JCT", "MEDIAN", "P99", "MAKESPAN", "PREEMPT", "UTIL"]
    rows = [
        [
            result["policy"],
            f"{result['jobs_done']}/{result['jobs']}",
            *(f"{result[key]:,.0f}" for key in _ROUNDED[:4]),
            f"{result['preemptions']:,}",
            f"{result['utilisation']:.1%}",
        ]
        for result in results
    ]
    render.console().print(render.pairs_table(headers, rows))
    for result in results:
        for job, reason in result["refused"][:5]:
            print(f"{result['policy']} refused job {job}: {reason}")
        if len(result["refused"]) > 5:
            print(f"{result['policy']} refused {len(result['refused']) - 5} more; --json lists all")


def _picture(path: Path, drawing: str, shown: Any) -> None:
    try:
        from torchtide.cli import simulate_picture
    except ImportError as error:
        raise OptionError(
            f"a picture needs matplotlib: {error}", advice="pip install matplotlib"
        ) from error
    try:
        getattr(simulate_picture, drawing)(path, shown)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{path} cannot be written: {error}", advice="give a path that ends in .png"
        ) from error
