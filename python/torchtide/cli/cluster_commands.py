"""The commands about a cluster as typer sees them; `torchtide.cli.cluster` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchtide.cli import examples, exits
from torchtide.cli.edges import Edges

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def edges_of(context: typer.Context) -> Edges:
    """The world outside that a command was started with."""
    found = context.obj
    assert isinstance(found, Edges)
    return found


def _preview_instead(context: typer.Context, name: str) -> str:
    """Ends the command with the preview of an open job, whatever else it was given."""
    from torchtide.cli import cluster as clusters

    if name:
        with exits.reported(False, f"tide simulate --preview {name}"):
            request = clusters.Request(name, devices=0)
            raise exits.Exit(clusters.preview(edges_of(context), request, False))
    return name


Previewed = Annotated[
    str,
    typer.Option(
        "--preview",
        metavar="JOB",
        is_eager=True,
        callback=_preview_instead,
        help="Instead: when an open job of the cluster would start, as `tide preview`.",
    ),
]


def submit(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD...", help="Program and arguments.")
    ],
    name: Annotated[str, typer.Option(help="Name of the job, unique in the cluster.")],
    devices: Annotated[int, typer.Option(min=1, help="Its gang: all of them or none.")] = 1,
    devices_max: Annotated[
        int, typer.Option(min=0, help="Elastic: up to so many while others leave them idle.")
    ] = 0,
    user: Annotated[str, typer.Option(help="Whose quota and share; yours by default.")] = "",
    estimate: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What it may take; 0: unknown.")
    ] = 0.0,
    deadline: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Until when; 0: none.")
    ] = 0.0,
    tier: Annotated[str, typer.Option(help="guaranteed, standard or opportunistic.")] = "standard",
    profile: Annotated[
        str,
        typer.Option(
            metavar="KEY=VALUE...",
            help="What is known of it: busy, memory, scratch, speed, stages; see the cluster page.",
        ),
    ] = "",
    movable: Annotated[
        bool,
        typer.Option(
            "--movable", help="SIGTERM makes it save and end: it may be started again elsewhere."
        ),
    ] = False,
    leave_within: Annotated[
        float,
        typer.Option(min=1, max=600, metavar="SECONDS", help="What a movable job may take to end."),
    ] = 300.0,
    leaves_with: Annotated[
        int,
        typer.Option(
            min=1, max=255, metavar="CODE", help="How a movable job ends when it has saved."
        ),
    ] = 143,
) -> None:
    """Wait for devices of the cluster, run a command on them, give them back."""
    from torchtide.cli import cluster as clusters
    from torchtide.cli import moves, profiles

    with exits.reported(False, f"tide submit --name {name}"):
        leaving = moves.Leaving(leave_within, leaves_with) if movable else None
        request = clusters.Request(
            *(name, devices, devices_max, user, estimate, deadline, tier),
            leaving=leaving,
            profile=profiles.parse(profile),
        )
        raise exits.Exit(clusters.submit(edges_of(context), request, command))


def cluster(
    context: typer.Context,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what it has run as a trace for `tide simulate`."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Show nodes, users and jobs of the cluster, and why jobs wait; or write a trace of it."""
    from torchtide.cli import cluster as clusters

    with exits.reported(json_output):
        if trace is not None:
            raise exits.Exit(clusters.write_trace(edges_of(context), trace, json_output))
        raise exits.Exit(clusters.show(edges_of(context), json_output))


def reserve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the reservation.")],
    devices: Annotated[int, typer.Option(min=0, help="How many; 0 lifts the reservation.")],
    user: Annotated[str, typer.Option(help="Whose jobs may use them.")] = "",
    begin: Annotated[
        float, typer.Option("--in", min=0, metavar="SECONDS", help="Until it begins.")
    ] = 0.0,
    length: Annotated[
        float, typer.Option("--for", min=1, metavar="SECONDS", help="How long it lasts.")
    ] = 3600.0,
    json_output: Json = False,
) -> None:
    """Keep devices of the cluster for one user; what ends before runs on them until then."""
    from torchtide.cli import cluster as clusters

    with exits.reported(json_output, f"tide reserve {name}"):
        edges = edges_of(context)
        raise exits.Exit(clusters.reserve(edges, name, devices, user, (begin, length), json_output))


def preview(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An open job, or one that would be submitted.")],
    devices: Annotated[
        int, typer.Option(min=0, help="Of a job that would be submitted; 0: it is open.")
    ] = 0,
    user: Annotated[str, typer.Option(help="Whose it would be.")] = "",
    estimate: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What it may take; 0: unknown.")
    ] = 0.0,
    json_output: Json = False,
) -> None:
    """Say when a job of the cluster would start: the policy is run forward by the estimates."""
    from torchtide.cli import cluster as clusters

    with exits.reported(json_output, f"tide preview {name}"):
        request = clusters.Request(name, devices, user=user, estimate_s=estimate)
        raise exits.Exit(clusters.preview(edges_of(context), request, json_output))


def move(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of a job submitted with --movable.")],
    to: Annotated[
        str, typer.Option(metavar="NODE", help="Where to; by default wherever there is room.")
    ] = "",
    json_output: Json = False,
) -> None:
    """Have a running job of the cluster save, end, and go on on other nodes."""
    from torchtide.cli import cluster as clusters

    with exits.reported(json_output, f"tide move {name}" + (f" --to {to}" if to else "")):
        raise exits.Exit(clusters.move(edges_of(context), name, to, json_output))


def drain(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="Its name in `tide cluster`.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
    json_output: Json = False,
) -> None:
    """Empty a node: it takes no job any more, movable ones leave it, the others end there."""
    from torchtide.cli import cluster as clusters

    with exits.reported(json_output, f"tide drain {node}"):
        raise exits.Exit(clusters.drain(edges_of(context), node, undo, json_output))


def register(app: typer.Typer) -> None:
    """Adds these commands to `tide`."""
    words = {"allow_interspersed_args": False}
    app.command(context_settings=words, epilog=examples.of("submit"))(submit)
    for command in (cluster, reserve, preview, move, drain):
        app.command(epilog=examples.of(command.__name__))(command)
