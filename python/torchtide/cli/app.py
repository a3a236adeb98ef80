"""Commands and options of `tide` as typer sees them; each hands over to the file that does it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from torchtide.cli import cluster_commands, examples, exits
from torchtide.cli.cluster_commands import Json, edges_of
from torchtide.cli.demo import demo_command
from torchtide.cli.edges import Edges

app = typer.Typer(
    name="tide",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_app(argv: Sequence[str] | None, edges: Edges | None) -> int:
    """Runs one command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(
                errors="replace"
            )  # a name that the terminal cannot show is no reason to fail
    try:
        app(args=None if argv is None else list(argv), prog_name="tide", obj=edges or Edges())
    except SystemExit as end:
        return (
            end.code
            if isinstance(end.code, int)
            else exits.OK
            if end.code is None
            else exits.FAILED
        )
    return exits.OK


def _complete_job(context: typer.Context, incomplete: str) -> list[str]:
    from torchtide.cli import completion

    return [name for name in completion.job_names() if name.startswith(incomplete)]


def _complete_elastic_job(context: typer.Context, incomplete: str) -> list[str]:
    from torchtide.cli import completion

    return [name for name in completion.elastic_names() if name.startswith(incomplete)]


def _print_version(wanted: bool) -> None:
    if wanted:
        from torchtide.cli.doctor import package_version

        print(f"tide {package_version()}")
        raise exits.Exit(exits.OK)


Job = Annotated[str, typer.Argument(help="Name or number of a job.", autocompletion=_complete_job)]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the job's answer."),
]


@app.callback()
def tide(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Let PyTorch jobs share a machine as if each owned it.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no such job, 4 no daemon, 5 not permitted, 6 conflict,
    7 deadline passed.
    """


@app.command(context_settings={"allow_interspersed_args": False}, epilog=examples.of("run"))
def run(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD...", help="Program and arguments.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the job; the script's by default.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help='Budget at start, such as 2GiB, or "none".')
    ] = None,
    min_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that nobody else may take from it.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="P", help="guaranteed, normal or opportunistic.")
    ] = None,
    lane: Annotated[
        int | None, typer.Option(metavar="N", help="Lane to join; -1 joins none.")
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Run an elastic script in so many processes."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(metavar="N", help="Iterations in all, for the turn policy srtf."),
    ] = None,
    on_signal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIGNAL=ACTION",
            help="What a signal does: pause, resume, save or save-and-end; repeatable.",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Start a command as a job: tide run -- python train.py.

    tide becomes the command: terminal, signals and exit code are its own. Each Python it starts,
    directly or through shells and torchrun, is hooked when it imports torch.
    """
    from torchtide.cli import run as runner

    with exits.reported(json_output):
        options = runner.RunOptions(
            *(name, limit, min_memory, priority, lane, json_output, processes, iterations),
            on_signal=on_signal or (),
        )
        raise exits.Exit(runner.run(options, command, edges_of(context)))


@app.command(epilog=examples.of("ps"))
def ps(context: typer.Context, json_output: Json = False) -> None:
    """List the jobs."""
    from torchtide.cli import jobs

    with exits.reported(json_output):
        raise exits.Exit(jobs.ps(edges_of(context), json_output))


@app.command(epilog=examples.of("top"))
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between two pictures.")] = 1.0,
    json_output: Json = False,
) -> None:
    """Watch the machine: memory, turns, jobs, last events."""
    from torchtide.cli import top as viewer

    with exits.reported(json_output):
        edges = edges_of(context)
        raise exits.Exit(viewer.top(edges, once=once, interval_s=interval, json_output=json_output))


@app.command(epilog=examples.of("limit"))
def limit(
    context: typer.Context,
    job: Job,
    size: Annotated[str, typer.Argument(help='Such as 2GiB, 60% of the device, or "none".')],
    device: Annotated[
        int | None,
        typer.Option(metavar="INDEX", help="Of this GPU's memory, as the job numbers them."),
    ] = None,
    timeout: Timeout = 10.0,
    json_output: Json = False,
) -> None:
    """Set the memory budget of a job; takes effect at its next iteration."""
    from torchtide.cli import jobs

    asked = f"tide limit {job} {size}" + (f" --device {device}" if device is not None else "")
    with exits.reported(json_output, asked):
        if device is None:
            raise exits.Exit(jobs.limit(edges_of(context), job, size, timeout, json_output))
        raise exits.Exit(
            jobs.limit_device(edges_of(context), job, size, device, timeout, json_output)
        )


@app.command(epilog=examples.of("pause"))
def pause(
    context: typer.Context,
    job: Job,
    timeout: Timeout = 60.0,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Give its CUDA contexts away too; the driver must offer it."),
    ] = False,
    json_output: Json = False,
) -> None:
    """Stop a job at its next iteration and take its memory out."""
    from torchtide.cli import jobs

    with exits.reported(json_output, f"tide pause {job}"):
        raise exits.Exit(jobs.pause(edges_of(context), job, timeout, json_output, deep=deep))


@app.command(epilog=examples.of("resume"))
def resume(
    context: typer.Context, job: Job, timeout: Timeout = 60.0, json_output: Json = False
) -> None:
    """Continue a paused job where it stopped."""
    from torchtide.cli import jobs

    with exits.reported(json_output, f"tide resume {job}"):
        raise exits.Exit(jobs.resume(edges_of(context), job, timeout, json_output))


@app.command(epilog=examples.of("resize"))
def resize(
    context: typer.Context,
    job: Annotated[
        str,
        typer.Argument(
            help="Name of a job started with --processes.", autocompletion=_complete_elastic_job
        ),
    ],
    processes: Annotated[int, typer.Argument(help="How many are wanted.")],
    timeout: Timeout = 120.0,
    json_output: Json = False,
) -> None:
    """Change the number of processes of an elastic job while it trains."""
    from torchtide.cli import elastic

    with exits.reported(json_output, f"tide resize {job} {processes}"):
        raise exits.Exit(elastic.resize(job, processes, timeout, json_output))


@app.command(epilog=examples.of("verify"))
def verify(
    one: Annotated[Path, typer.Argument(help="A file that run.save or torch.save wrote.")],
    other: Annotated[Path, typer.Argument(help="The one to compare it with.")],
    json_output: Json = False,
) -> None:
    """Compare two checkpoints bit for bit and say where they differ."""
    from torchtide.cli import verify as verifier

    with exits.reported(json_output, f"tide verify {one} {other}"):
        raise exits.Exit(verifier.verify(one, other, json_output))


@app.command(epilog=examples.of("explain"))
def explain(context: typer.Context, job: Job, json_output: Json = False) -> None:
    """Say why a job is slow, paused or small."""
    from torchtide.cli import jobs

    with exits.reported(json_output, f"tide explain {job}"):
        raise exits.Exit(jobs.explain(edges_of(context), job, json_output))


@app.command(epilog=examples.of("events"))
def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help='"10m", "2h", "14:30" or an ISO date.')
    ] = None,
    job: Annotated[str | None, typer.Option(help="Only events of this job.")] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="At most so many; 0 for all.")
    ] = 50,
    json_output: Json = False,
) -> None:
    """Tell what was decided and why, a sentence a line."""
    from torchtide.cli import events as teller

    with exits.reported(json_output):
        edges = edges_of(context)
        code = teller.events(
            edges, follow=follow, since=since, job=job, last=last, json_output=json_output
        )
        raise exits.Exit(code)


@app.command(epilog=examples.of("report"))
def report(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page to write.")
    ] = Path("tide-report.html"),
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="So long, not until the end.")
    ] = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks.")] = 0.5,
    last: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Of what is over: 30m, 2h, 1d, all.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Watch the jobs until they have ended and write a page with pictures of the run."""
    from torchtide.cli import report as reporter

    with exits.reported(json_output, "tide report"):
        request = reporter.Request(output, seconds, interval, json_output, last)
        raise exits.Exit(reporter.report(edges_of(context), request))


@app.command(epilog=examples.of("priority"))
def priority(
    context: typer.Context,
    job: Job,
    level: Annotated[str, typer.Argument(help="guaranteed, normal or opportunistic.")],
    timeout: Timeout = 10.0,
    json_output: Json = False,
) -> None:
    """Say whom a job goes before and whom it gives way to."""
    from torchtide.cli import jobs

    with exits.reported(json_output, f"tide priority {job} {level}"):
        raise exits.Exit(jobs.priority(edges_of(context), job, level, timeout, json_output))


@app.command(epilog=examples.of("policy"))
def policy(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LANE] POLICY", help="fair, fifo, rr, srtf, pack or priority."),
    ] = None,
    json_output: Json = False,
) -> None:
    """List the lanes, or give one (lane 0 by default) another turn policy."""
    from torchtide.cli import jobs

    with exits.reported(json_output, f"tide policy {' '.join(words or [])}".strip()):
        raise exits.Exit(jobs.policy(edges_of(context), words or [], json_output))


cluster_commands.register(app)


@app.command(epilog=examples.of("simulate"))
def simulate(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.csv", help="job_id,submit_s,gpus,duration_s.")
    ],
    policy: Annotated[
        list[str], typer.Option("--policy", "-p", metavar="P", help="Cluster policy; repeatable.")
    ],
    cluster: Annotated[str, typer.Option(metavar="N|SPEC.toml", help="Number of GPUs, or a file.")],
    placement: Annotated[
        str, typer.Option(metavar="HOW", help="count, or node: consolidate gangs.")
    ] = "count",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of the policies; repeatable."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw completion times and usage.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each decision with its reason.")
    ] = None,
    elastic: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Assume that jobs run on 1 to twice their GPUs, SHARE of the work being serial.",
        ),
    ] = None,
    gantt: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw who held GPUs when.")
    ] = None,
    throughputs: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Of a trace in Gavel's layout.")
    ] = None,
    preview: cluster_commands.Previewed = "",
    json_output: Json = False,
) -> None:
    """Replay a trace of jobs under cluster policies; needs no daemon and no GPU."""
    from torchtide.cli import simulate as simulator

    with exits.reported(json_output, f"tide simulate {trace}"):
        request = simulator.Request(
            *(trace, policy, cluster, placement, settings or [], plot, log, json_output),
            *(elastic, gantt, throughputs),
        )
        raise exits.Exit(simulator.simulate(request))


@app.command(epilog=examples.of("config"))
def config(
    context: typer.Context,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Also say why each option exists.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Print every option with its value and where that comes from."""
    from torchtide.cli import config as printer

    with exits.reported(json_output):
        raise exits.Exit(printer.config(edges_of(context), reasons, json_output))


@app.command(epilog=examples.of("doctor"))
def doctor(
    context: typer.Context,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Also try the GPU: how its memory is reached.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Check this machine; each finding comes with its fix."""
    from torchtide.cli import doctor as examiner

    with exits.reported(json_output):
        raise exits.Exit(examiner.doctor(edges_of(context), json_output, gpu=gpu))


app.command("demo", epilog=examples.of("demo"))(demo_command)


@app.command(epilog=examples.of("shutdown"))
def shutdown(context: typer.Context, json_output: Json = False) -> None:
    """End the daemon; jobs train on."""
    from torchtide.cli import jobs

    with exits.reported(json_output):
        raise exits.Exit(jobs.shutdown(edges_of(context), json_output))
