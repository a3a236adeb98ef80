"""Traces in the layouts in which they were published, as the CSV that the simulator reads.

Known are Philly (JSON), Helios, PAI 2020, Muri, Tiresias (CSV) and Gavel (words between tabs, with
its file of throughputs). A file in none of these layouts is left to the simulator's own reader.
"""

from __future__ import annotations

import ast
import csv
import datetime
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torchtide.errors import OptionError

Row = dict[str, Any]

#: Of Gavel's file, the first being the one that durations are of.
GAVEL_TYPES: Final = ("v100", "p100", "k80")
_GAVEL_WORDS: Final = 10
_MS: Final = 1000.0


def convert(path: Path, throughputs: Path | None = None) -> str | None:
    """The text of our CSV for a published layout; None when the file is in none of them.

    Args:
        path: The trace.
        throughputs: Gavel's `simulation_throughputs.json`, which its traces need.

    Raises:
        OptionError: The file is in a layout, and a line of it is not.
    """
    try:
        with path.open(encoding="utf-8") as file:
            begin = file.readline()
            if path.suffix == ".json":
                file.seek(0)
                return _text(_philly(json.load(file)))
            if begin.count("\t") == _GAVEL_WORDS - 1:
                file.seek(0)
                return _text(_gavel(csv.reader(file, delimiter="\t"), _throughputs(throughputs)))
            columns = set(begin.strip().split(","))
            reader = _LAYOUTS.get(next((key for key in _LAYOUTS if key <= columns), frozenset()))
            if reader is None:
                return None
            file.seek(0)
            return _text(reader(csv.DictReader(file)))
    except OptionError:
        raise
    except OSError:
        return None  # the simulator's reader says what is wrong
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise OptionError(
            f"{path} begins like a published layout and goes on otherwise: {error!r}",
            advice="docs/reference/policies.md lists the layouts",
        ) from error


def _text(rows: Iterable[Row]) -> str:
    """Rows as CSV, the first submission at 0."""
    kept = sorted(rows, key=lambda row: row["submit_s"])
    if not kept:
        raise ValueError("no job that used a GPU")
    first = kept[0]["submit_s"]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in kept for key in row)))
    writer.writeheader()
    writer.writerows({**row, "submit_s": row["submit_s"] - first} for row in kept)
    return out.getvalue()


def _time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def _philly(jobs: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    """`cluster_job_log`: the attempts of a job together, with the GPUs of its last."""
    for job in jobs:
        runs = [run for run in job["attempts"] if run["start_time"] and run["end_time"]]
        seconds = sum(_time(run["end_time"]) - _time(run["start_time"]) for run in runs)
        gpus = sum(len(part["gpus"]) for part in runs[-1]["detail"]) if runs else 0
        if gpus and seconds >= 1:
            yield {
                "job_id": job["jobid"],
                "submit_s": _time(job["submitted_time"]),
                "gpus": gpus,
                "duration_s": seconds,
                "vc": job["vc"],
            }


def _helios(jobs: Iterable[Mapping[str, str]]) -> Iterable[Row]:
    for job in jobs:
        if int(job["gpu_num"]) > 0:
            yield {
                "job_id": job["job_id"],
                "submit_s": _time(job["submit_time"]),
                "gpus": int(job["gpu_num"]),
                "duration_s": max(1.0, float(job["duration"])),
                "vc": job["vc"],
            }


def _pai(jobs: Iterable[Mapping[str, str]]) -> Iterable[Row]:
    """Parts of a GPU are rounded up: a job here holds whole ones."""
    for job in jobs:
        gpus = math.ceil(float(job["num_gpu"] or 0) * max(1.0, float(job["num_inst"] or 1)))
        if gpus:
            yield {
                "job_id": job["job_id"],
                "submit_s": float(job["submit_time"]),
                "gpus": gpus,
                "duration_s": max(1.0, float(job["duration"])),
                "user": job["user"],
            }


def _muri(jobs: Iterable[Mapping[str, str]]) -> Iterable[Row]:
    """Milliseconds become whole seconds, at least one; its three resources are stages in order."""
    for job in jobs:
        yield {
            "job_id": job["job_id"],
            "submit_s": round(float(job["submit_time"]) / _MS),
            "gpus": int(job["num_gpu"]),
            "duration_s": max(1, round(float(job["duration"]) / _MS)),
            "model": job["model_name"],
            "stage_cpu_ms": job["resource_time_0"],
            "stage_gpu_ms": job["resource_time_1"],
            "stage_net_ms": job["resource_time_2"],
        }


def _tiresias(jobs: Iterable[Mapping[str, str]]) -> Iterable[Row]:
    for job in jobs:
        yield {
            "job_id": job["job_id"],
            "submit_s": float(job["submit_time"]),
            "gpus": int(job["num_gpu"]),
            "duration_s": float(job["duration"]),
            "model": job["model_name"],
        }


def _throughputs(path: Path | None) -> dict[tuple[str, int], list[float]]:
    """Steps a second on each type by (model, GPUs), alone."""
    if path is None:
        raise OptionError(
            "Gavel's traces say how many steps, not how long",
            advice="add --throughputs simulation_throughputs.json of its repository",
        )
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read: {error.strerror}", advice="give its path"
        ) from error
    return {
        ast.literal_eval(key): [float(tables[kind][key]["null"]) for kind in GAVEL_TYPES]
        for key in tables[GAVEL_TYPES[0]]
    }


def _gavel(jobs: Iterable[Sequence[str]], table: Mapping[Any, Sequence[float]]) -> Iterable[Row]:
    for number, words in enumerate(jobs):
        gpus = int(words[6])
        speeds = table[(words[0], gpus)]
        yield {
            "job_id": number,
            "submit_s": float(words[9]),
            "gpus": gpus,
            "duration_s": float(words[5]) / speeds[0],
            "model": words[0],
            "weight": float(words[7]),
            "type_speed": ";".join(repr(speed / speeds[0]) for speed in speeds),
        }


#: By columns that only this layout has; the first that fits.
_LAYOUTS: Final[Mapping[frozenset[str], Any]] = {
    frozenset({"gpu_num", "submit_time", "duration", "vc"}): _helios,
    frozenset({"num_gpu", "submit_time", "duration", "resource_time_0"}): _muri,
    frozenset({"num_gpu", "submit_time", "duration", "num_inst", "user"}): _pai,
    frozenset({"num_gpu", "submit_time", "duration", "model_name"}): _tiresias,
}
