"""`tide simulate`: the goldens through the command line, clusters from files, refusals."""

from __future__ import annotations

import csv
import json
import pathlib
import signal
from typing import Any

import pytest
from torchtide.cli import main
from torchtide.cli.simulate import read_cluster, read_settings
from torchtide.errors import OptionError

TRACES = pathlib.Path(__file__).resolve().parents[1] / "sim" / "traces"
GOLDENS = list(csv.DictReader((TRACES / "goldens.csv").open(encoding="utf-8")))
Said = pytest.CaptureFixture[str]


def last_json(said: Said) -> Any:
    return json.loads(said.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("trace", ["tiresias60", "itp10", "muri3"])
def test_the_last_line_has_the_columns_of_the_goldens_with_their_values(
    trace: str, capsys: Said
) -> None:
    rows = [row for row in GOLDENS if row["trace"] == trace]
    words = ["simulate", str(TRACES / f"{trace}.csv"), "--cluster", rows[0]["gpus"], "--json"]
    for row in rows:
        words += ["--policy", row["policy"]]
    assert main(words) == 0
    results = last_json(capsys)
    assert len(results) == len(rows) == 7
    for result, row in zip(results, rows, strict=True):
        columns = [column for column in row if column != "published_simulator_agrees"]
        assert list(result)[: len(columns)] == columns
        shown = {column: str(result[column]) for column in columns if column != "avg_jct_s"}
        assert shown == {column: row[column] for column in shown}
        assert f"{result['avg_jct_s']:.3f}" == row["avg_jct_s"]


def test_one_policy_prints_one_object_and_an_alias_means_the_same(capsys: Said) -> None:
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", "16", "--json", "-p"]
    assert main([*words, "shortest-gpu"]) == 0
    alias = last_json(capsys)
    assert main([*words, "srsf"]) == 0
    assert alias["avg_jct_s"] == last_json(capsys)["avg_jct_s"] == 195.9


def test_the_table_compares_the_policies(capsys: Said) -> None:
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", "4"]
    assert main([*words, "-p", "fifo", "-p", "srtf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiresias60: 60 jobs on 4 GPUs; times in seconds"
    assert "AVG JCT" in lines[1] and lines[2].startswith("fifo") and lines[3].startswith("srtf")
    assert "fifo refused job 1: asks for 8 GPUs at once; the cluster has 4" in lines


def test_a_picture_and_a_log_are_written(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", "16", "-p", "srsf"]
    picture, log = tmp_path / "out.png", tmp_path / "log"
    assert main([*words, "--plot", str(picture), "--log", str(log)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert sum(" start " in line for line in lines) == 60 + 7
    assert sum(" preempt " in line for line in lines) == 7


def test_a_file_describes_nodes_faults_and_costs(tmp_path: pathlib.Path, capsys: Said) -> None:
    spec = tmp_path / "cluster.toml"
    spec.write_text(
        "nodes = 2\ngpus_per_node = 8\nrestart_cost_s = 5\ncheckpoint_every_s = 60\n"
        "[[faults]]\nnode = 1\nat_s = 500\nfor_s = 200\n",
        encoding="utf-8",
    )
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", str(spec), "-p", "srsf"]
    assert main([*words, "--json"]) == 2
    assert "add --placement node" in capsys.readouterr().err
    assert main([*words, "--json", "--placement", "node"]) == 0
    result = last_json(capsys)
    assert result["jobs_done"] == 60 and result["gpus"] == 16
    assert result["evictions"] > 0 and result["gpu_seconds_lost"] > 0


def test_a_file_describes_cpus_and_memory_of_nodes(tmp_path: pathlib.Path, capsys: Said) -> None:
    trace, spec = tmp_path / "trace.csv", tmp_path / "cluster.toml"
    trace.write_text(
        "job_id,submit_s,gpus,duration_s,cpu_speed\n0,0,2,100,3:0.5;6:1\n1,0,2,100,1:1\n",
        encoding="utf-8",
    )
    spec.write_text("nodes = 2\ngpus_per_node = 2\ncpus_per_node = 6\n", encoding="utf-8")
    words = ["simulate", str(trace), "--cluster", str(spec), "--json", "-p"]
    found = {}
    for policy in ("srtf", "synergy"):
        assert main([*words, policy]) == 0
        found[policy] = last_json(capsys)["makespan_s"]
    # By count the nodes are one: what the second job leaves of twelve CPUs goes to the first.
    assert found == {"srtf": 200, "synergy": 116.667}
    assert main([*words, "synergy", "--placement", "node"]) == 0
    assert last_json(capsys)["makespan_s"] == 200
    spec.write_text("nodes = 2\ngpus_per_node = 2\ncpus_per_node = -1\n", encoding="utf-8")
    assert main([*words, "synergy"]) == 2
    assert "cpus_per_node" in capsys.readouterr().err


def test_lucid_has_a_profiler_that_is_set(capsys: Said) -> None:
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", "16", "-p", "lucid", "--json"]
    assert main([*words, "--set", "profiler_gpus=4", "--set", "profiler_limit_s=100"]) == 0
    result = last_json(capsys)
    assert result["jobs_done"] == 60 and result["preemptions"] > 0
    assert main([*words, "--set", "profiler_gpus=-4"]) == 2
    assert "a profiler of -4 GPUs" in capsys.readouterr().err


def test_a_file_describes_loans(tmp_path: pathlib.Path, capsys: Said) -> None:
    spec = tmp_path / "cluster.toml"
    loans = "[[loans]]\nnodes = 1\nfrom_s = 100\nto_s = 900\n"
    spec.write_text(f"nodes = 1\ngpus_per_node = 8\n{loans}", encoding="utf-8")
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", str(spec), "-p", "lyra"]
    assert main([*words, "--json"]) == 2
    assert "the cluster has loans of nodes" in capsys.readouterr().err
    assert main([*words, "--json", "--placement", "node"]) == 0
    lent = last_json(capsys)
    assert lent["jobs_done"] == 60 and lent["evictions"] > 0
    spec.write_text("nodes = 1\ngpus_per_node = 8\n", encoding="utf-8")
    assert main([*words, "--json", "--placement", "node"]) == 0
    assert last_json(capsys)["avg_jct_s"] > lent["avg_jct_s"]
    spec.write_text(
        f"nodes = 1\ngpus_per_node = 8\n{loans.replace('to_s', 'until_s')}", encoding="utf-8"
    )
    assert main([*words, "--placement", "node"]) == 2
    assert "says nothing about a loan" in capsys.readouterr().err
    spec.write_text(f"nodes = 1\ngpus_per_node = 8\n{loans.replace('900', '50')}", encoding="utf-8")
    assert main([*words, "--placement", "node"]) == 2
    assert "a loan of 1 nodes from 100 to 50 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "lottery", "--cluster", "16"], 'no cluster policy is called "lottery"'),
        (["-p", "fifo", "--cluster", "0"], "0 GPUs are no whole nodes"),
        (["-p", "fifo", "--cluster", "12", "--placement", "node"], "no whole nodes of 8"),
        (["-p", "fifo", "--cluster", "16", "--placement", "rack"], "there are count and node"),
        (["-p", "fifo", "--cluster", "nowhere.toml"], "neither a number of GPUs nor a file"),
        (["-p", "dlas", "--cluster", "16", "--set", "luck=1"], "luck"),
        (["-p", "dlas", "--cluster", "16", "--set", "queue_limits_s=9,3"], "ascending"),
        (["-p", "dlas", "--cluster", "16", "--set", "round_s=often"], 'round_s is "often"'),
        (["-p", "fifo", "-p", "srtf", "--cluster", "16", "--log", "x"], "of one policy"),
    ],
)
def test_what_cannot_be_is_refused_with_advice(
    words: list[str], message: str, capsys: Said
) -> None:
    assert main(["simulate", str(TRACES / "tiresias60.csv"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_trace_that_is_not_there_or_no_trace_is_refused(
    tmp_path: pathlib.Path, capsys: Said
) -> None:
    assert main(["simulate", str(tmp_path / "none.csv"), "-p", "fifo", "--cluster", "4"]) == 2
    assert "cannot open the trace" in capsys.readouterr().err
    text = tmp_path / "text.csv"
    text.write_text("hello\nworld\n", encoding="utf-8")
    assert main(["simulate", str(text), "-p", "fifo", "--cluster", "4"]) == 2
    assert 'has no column "job_id"' in capsys.readouterr().err


def test_ctrl_c_ends_a_long_replay() -> None:
    core = pytest.importorskip("torchtide._core")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        trace = core.draw_trace(20_000, 64, 40.0, 1)  # minutes of rounds
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            core.simulate(trace, "makespan", 1, 64)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_numbers_and_files_become_clusters(tmp_path: pathlib.Path) -> None:
    assert (read_cluster("64", "count").nodes, read_cluster("64", "count").gpus_per_node) == (1, 64)
    assert (read_cluster("64", "node").nodes, read_cluster("64", "node").gpus_per_node) == (8, 8)
    spec = tmp_path / "c.toml"
    for text in ("nodes = 2", "nodes = 2\ngpus_per_node = true", "=", "nodes = 1\nracks = 2"):
        spec.write_text(text, encoding="utf-8")
        with pytest.raises(OptionError):
            read_cluster(str(spec), "count")


def test_settings_are_numbers_and_lists_of_numbers() -> None:
    assert read_settings(["queue_limits_s=10,20.5", "seed=7", "starvation_knob=2"]) == {
        "queue_limits_s": [10.0, 20.5],
        "seed": 7,
        "starvation_knob": 2.0,
    }


LAYOUTS = {
    "philly.json": json.dumps(
        [
            {
                "jobid": "application_1",
                "vc": "a",
                "submitted_time": "2017-10-01 00:00:00",
                "attempts": [
                    {
                        "start_time": "2017-10-01 00:00:10",
                        "end_time": "2017-10-01 00:01:10",
                        "detail": [{"ip": "m1", "gpus": ["gpu0", "gpu1"]}],
                    }
                ],
            },
            {"jobid": "x", "vc": "a", "submitted_time": "2017-10-01 00:00:05", "attempts": []},
        ]
    ),
    "helios.csv": "job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,"
    "duration,queue\n1,u,v,2,1,1,COMPLETED,2020-06-09 18:41:01,x,y,60,0\n"
    "2,u,v,0,1,1,COMPLETED,2020-06-09 18:41:01,x,y,60,0\n",
    "pai.csv": "job_id,num_gpu,num_inst,submit_time,duration,user,num_cpu\n7,0.5,4,100,60,u,8\n",
    "muri.csv": "job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,interval,"
    "iteration_time,resource_time_0,resource_time_1,resource_time_2,priority\n"
    "0,2,5000,9,bert,4,60000,0,190,0.5,163,18,0\n",
    "tiresias.csv": "job_id,num_gpu,submit_time,iterations,model_name,duration,interval\n"
    "0,2,0,606,vgg19,60,0\n",
    "gavel.trace": "LSTM\tpython3 x.py\tdir\t--steps\t1\t600\t2\t1\t-1.0\t0\n",
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_published_layouts_are_read_as_they_are(
    layout: str, tmp_path: pathlib.Path, capsys: Said
) -> None:
    trace, table = tmp_path / layout, tmp_path / "throughputs.json"
    trace.write_text(LAYOUTS[layout], encoding="utf-8")
    speeds = {"v100": 10.0, "p100": 5.0, "k80": 1.0}
    table.write_text(
        json.dumps({kind: {"('LSTM', 2)": {"null": value}} for kind, value in speeds.items()}),
        encoding="utf-8",
    )
    words = ["simulate", str(trace), "-p", "fifo", "--cluster", "4", "--json"]
    assert main([*words, "--throughputs", str(table)]) == 0
    result = last_json(capsys)
    assert (result["jobs"], result["jobs_done"]) == (1, 1)
    assert (result["avg_jct_s"], result["makespan_s"]) == (60, 60)
    assert result["utilisation"] == 0.5  # two GPUs of four


def test_a_layout_that_breaks_off_is_refused(tmp_path: pathlib.Path, capsys: Said) -> None:
    trace = tmp_path / "broken.csv"
    trace.write_text(LAYOUTS["helios.csv"].replace("2020-06-09", "yesterday"), encoding="utf-8")
    assert main(["simulate", str(trace), "-p", "fifo", "--cluster", "4"]) == 2
    assert "goes on otherwise" in capsys.readouterr().err
    gavel = tmp_path / "gavel.trace"
    gavel.write_text(LAYOUTS["gavel.trace"], encoding="utf-8")
    assert main(["simulate", str(gavel), "-p", "fifo", "--cluster", "4"]) == 2
    assert "--throughputs" in capsys.readouterr().err


def test_types_of_gpu_links_and_gantt_come_from_the_command_line(
    tmp_path: pathlib.Path, capsys: Said
) -> None:
    pytest.importorskip("matplotlib")
    spec, gantt = tmp_path / "types.toml", tmp_path / "gantt.png"
    spec.write_text(
        'resize_cost_s = 1\n[[types]]\nname = "fast"\nnodes = 2\ngpus_per_node = 8\ncost = 2.0\n'
        '[[types]]\nname = "slow"\nnodes = 1\ngpus_per_node = 8\n'
        '[[faults]]\nnode = 2\nat_s = 9\nfor_s = 9\nkind = "slow"\nspeed = 0.5\n',
        encoding="utf-8",
    )
    words = ["simulate", str(TRACES / "tiresias60.csv"), "--cluster", str(spec), "--json"]
    words += ["--placement", "node", "-p", "optimus", "--elastic", "0.1", "--gantt", str(gantt)]
    assert main(words) == 0
    result = last_json(capsys)
    assert result["gpus"] == 24 and result["jobs_done"] == 60
    assert result["resizes"] > 0 and result["cost"] > 0
    assert gantt.read_bytes().startswith(b"\x89PNG")
    spec.write_text("nodes = 1\ngpus_per_node = 8\n[[faults]]\nnode = 0\n", encoding="utf-8")
    assert main(words) == 2
    assert "has no at_s" in capsys.readouterr().err
