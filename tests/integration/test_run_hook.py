"""Which processes under `tide run` become jobs, and that the hook is felt by nobody else."""

import os
import pathlib
import subprocess

import cli_processes as processes
import pytest
import run_harness
from run_harness import PYTHON, Bench
from torchtide import _launch

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Bench:
    return run_harness.bench(tmp_path)


def assert_clean(ended: subprocess.CompletedProcess[str], code: int = 0) -> None:
    assert (ended.returncode, ended.stderr) == (code, "")


def test_a_script_that_imports_torch_is_a_job(bench: Bench) -> None:
    bench.script("train.py", "import sys, torch; print(sys.argv[1:], torch.__spec__.loader)")
    ended = bench.run("--limit", "2GiB", "--", "python", "train.py", "--name", "x y")
    assert_clean(ended)
    assert ended.stdout.startswith("['--name', 'x y'] <_frozen_importlib_external.SourceFileLoader")
    assert [(job["name"], job["limit"]) for job in bench.jobs()] == [("train", str(2 << 30))]


def test_a_script_that_never_imports_torch_is_none(bench: Bench) -> None:
    code = "import sys; print(any('tide' in name for name in sys.modules))"
    ended = bench.run("--", "python", "-c", code)
    assert_clean(ended)
    assert (ended.stdout, bench.jobs()) == ("False\n", [])


def test_modules_wrappers_and_console_scripts_are_jobs(bench: Bench) -> None:
    bench.script("pkg/__init__.py", "")
    bench.script("pkg/fit.py", "import torch")
    bench.script("run.sh", "#!/bin/bash\nset -e\npython -m pkg.fit\npython pkg/fit.py 1\n")
    bench.script("tool", f"#!{PYTHON}\nimport torch\n")
    assert_clean(bench.run("python", "-m", "pkg.fit"))
    assert_clean(bench.run("bash", "run.sh"))
    assert_clean(bench.run("--", "./tool"))
    assert [job["name"] for job in bench.jobs()] == ["pkg.fit", "run", "run", "tool"]


def test_names_with_spaces_and_other_scripts_arrive_unharmed(bench: Bench) -> None:
    bench.script("mein Modell 模型.py", "import torch")
    assert_clean(bench.run("--", "python", "mein Modell 模型.py"))
    assert_clean(bench.run("--name", "run #3 🚂 'x'", "--", "python", "mein Modell 模型.py"))
    assert bench.names() == ["mein Modell 模型", "run #3 🚂 'x'"]


def test_a_virtual_environment_of_its_own_is_hooked_with_our_torchtide(bench: Bench) -> None:
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(bench.folder / "venv")], check=True)
    library = bench.folder / "library"
    bench.script("train.py", "import sys, torch; print(sys.prefix)")
    bench.script(
        "run.sh", "export PYTHONPATH=$PYTHONPATH_WITHOUT\n. venv/bin/activate\npython train.py\n"
    )
    only_torch = bench.folder / "only"
    only_torch.mkdir()
    (only_torch / "torch").symlink_to(library / "torch")
    (only_torch / "torchtide").symlink_to(library / "torchtide")
    ended = bench.run("bash", "run.sh", PYTHONPATH_WITHOUT=f"{_launch.INJECT_DIR}:{only_torch}")
    assert_clean(ended)
    assert ended.stdout.strip() == str(bench.folder / "venv")
    assert bench.names() == ["run"]


def test_a_python_without_torchtide_gets_the_one_that_tide_run_belongs_to(bench: Bench) -> None:
    bench.script("only/torch/__init__.py", "ready = True")
    code = "import torch, torchtide; print(torchtide.__path__[0])"
    environ = {
        **bench.environ,
        "TIDE_RUN": "1",
        "TIDE_DISABLE": "0",
        "PYTHONPATH": f"{_launch.INJECT_DIR}:{bench.folder / 'only'}",
    }
    ended = subprocess.run(
        [PYTHON, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == str(processes.SOURCE / "torchtide")


def test_torch_may_be_imported_in_a_thread_and_by_several_at_once(bench: Bench) -> None:
    bench.script(
        "train.py",
        """
        import threading

        def work():
            import torch
            assert torch.ready

        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        """,
    )
    assert_clean(bench.run("python", "train.py"))
    assert bench.names() == ["train"]
    assert bench.jobs()[0]["thread"] != "MainThread"


def test_a_torch_that_fails_to_import_fails_as_always_and_may_be_tried_again(
    tmp_path: pathlib.Path,
) -> None:
    torch = (
        "import os\nif 'BROKEN' in os.environ: raise ImportError('libc10 is gone')\nready = True\n"
    )
    bench = run_harness.bench(tmp_path, torch)
    bench.script("bad.py", "import torch")
    ended = bench.run("python", "bad.py", BROKEN="1")
    assert ended.returncode == 1 and "ImportError: libc10 is gone" in ended.stderr
    assert "torchtide:" not in ended.stderr
    bench.script(
        "retry.py",
        """
        import os
        try:
            import torch
        except ImportError:
            del os.environ["BROKEN"]
            import torch
        assert torch.ready
        """,
    )
    assert_clean(bench.run("python", "retry.py", BROKEN="1"))
    assert bench.names() == ["retry"]


def test_looking_for_torch_without_importing_it_changes_nothing(bench: Bench) -> None:
    code = (
        "import importlib.util; spec = importlib.util.find_spec('torch'); "
        "print(spec.name, spec.loader.is_package('torch'))"
    )
    ended = bench.run("--", "python", "-c", code)
    assert_clean(ended)
    assert (ended.stdout, bench.jobs()) == ("torch True\n", [])


@pytest.mark.parametrize(
    "fault", ["raise RuntimeError('two\\nlines')", "raise SystemExit(9)", "import nothing"]
)
def test_a_fault_of_ours_is_one_line_of_warning(bench: Bench, fault: str) -> None:
    (bench.folder / "library/torchtide/_autostart.py").write_text(f"def install():\n    {fault}\n")
    bench.script("train.py", "import torch; print('trained')")
    ended = bench.run("python", "train.py")
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("torchtide: not hooked, ")


def test_the_off_switch_hooks_nothing(bench: Bench) -> None:
    bench.script("train.py", "import torch; print('trained')")
    ended = bench.run("python", "train.py", TIDE_DISABLE="1")
    assert_clean(ended)
    assert (ended.stdout, bench.jobs()) == ("trained\n", [])


def test_the_users_own_sitecustomize_runs_and_keeps_its_name(bench: Bench) -> None:
    bench.script("mine/sitecustomize.py", "import sys\nsys.custom = __file__\nanswer = 42\n")
    path = f"{bench.folder}/mine:{bench.environ['PYTHONPATH']}"
    code = "import sys, sitecustomize, torch; print(sys.custom, sitecustomize.answer)"
    ended = bench.run("--", "python", "-c", code, PYTHONPATH=path)
    assert_clean(ended)
    assert ended.stdout == f"{bench.folder}/mine/sitecustomize.py 42\n"
    assert bench.names() == ["python"]


def test_a_users_sitecustomize_that_fails_is_reported_by_python_and_torch_still_hooked(
    bench: Bench,
) -> None:
    bench.script("mine/sitecustomize.py", "raise ValueError('mine is broken')")
    path = f"{bench.folder}/mine:{bench.environ['PYTHONPATH']}"
    ended = bench.run("--", "python", "-c", "import torch", PYTHONPATH=path)
    assert ended.returncode == 0 and "mine is broken" in ended.stderr
    assert bench.names() == ["python"]


def test_a_torch_that_a_pth_file_imported_first_is_hooked_too(bench: Bench) -> None:
    bench.script("mine/sitecustomize.py", "import torch")
    path = f"{bench.folder}/mine:{bench.environ['PYTHONPATH']}"
    assert_clean(bench.run("--", "python", "-c", "pass", PYTHONPATH=path))
    assert bench.names() == ["python"]


def test_nested_runs_hook_once_and_the_inner_name_and_limit_win(bench: Bench) -> None:
    bench.script(
        "train.py", "import sys, torch; print(len([p for p in sys.path if '_inject' in p]))"
    )
    bench.script(
        "run.sh", f"{PYTHON} -m torchtide run --name inner --limit 1GiB -- python train.py\n"
    )
    ended = bench.run("--name", "outer", "--limit", "4GiB", "--", "bash", "run.sh")
    assert_clean(ended)
    assert ended.stdout == "1\n"
    assert [(job["name"], job["limit"]) for job in bench.jobs()] == [("inner", str(1 << 30))]


def test_workers_that_a_job_starts_pass_through(bench: Bench) -> None:
    bench.script(
        "train.py",
        """
        import multiprocessing, os, subprocess, sys

        def work(_):
            import torch
            return torch.ready

        if __name__ == "__main__":
            import torch
            for method in ("spawn", "fork", "forkserver"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    assert all(pool.map(work, range(4)))
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
        """,
    )
    assert_clean(bench.run("python", "train.py"))
    assert bench.names() == ["train"]


def test_processes_of_a_shell_script_are_jobs_each(bench: Bench) -> None:
    bench.script("a.py", "import torch")
    bench.script("run.sh", "python a.py & python a.py & wait\n")
    assert_clean(bench.run("bash", "run.sh"))
    assert bench.names() == ["run", "run"]
    assert len({job["pid"] for job in bench.jobs()}) == 2


def test_a_job_that_executes_itself_again_stays_a_job(bench: Bench) -> None:
    bench.script(
        "train.py",
        """
        import os, sys, torch
        if len(sys.argv) == 1:
            os.execv(sys.executable, [sys.executable, "train.py", "again"])
        """,
    )
    assert_clean(bench.run("python", "train.py"))
    jobs = bench.jobs()
    assert len(jobs) == 2 and jobs[0]["pid"] == jobs[1]["pid"]


def test_each_rank_of_a_launcher_is_a_job_and_the_launcher_is_none(bench: Bench) -> None:
    bench.script(
        "torchrun",
        f"""\
        #!{PYTHON}
        import os, subprocess, sys, torch
        ranks = [
            subprocess.Popen([sys.executable, sys.argv[-1]],
                             env=dict(os.environ, RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE="2"))
            for r in range(2)
        ]
        sys.exit(max(rank.wait() for rank in ranks))
        """,
    )
    bench.script(
        "x.py",
        """
        import multiprocessing, torch

        def work(_):
            import torch

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.map(work, [1])
        """,
    )
    assert_clean(bench.run("./torchrun", "--nproc-per-node", "2", "x.py"))
    assert bench.names() == ["x[0]", "x[1]"]


def test_a_start_without_torch_imports_nothing(bench: Bench) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); "
        "import sitecustomize; print(*sorted(set(sys.modules) - before))"
    )
    environ = {**bench.environ, "TIDE_RUN": "1"}
    command = [PYTHON, "-S", "-c", code, str(_launch.INJECT_DIR)]
    ended = subprocess.run(command, env=environ, capture_output=True, check=True, text=True)
    assert ended.stdout.split() == ["sitecustomize"]


def test_help_takes_less_than_three_tenths_of_a_second(bench: Bench) -> None:
    took = []
    for _ in range(5):
        before = os.times()
        assert processes.tide(["--help"], bench.environ, bench.folder).returncode == 0
        after = os.times()
        took.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(took) < 0.3


@pytest.mark.skipif(not pathlib.Path("/usr/bin/python3").exists(), reason="no second Python")
def test_a_python_other_than_ours_runs_on_with_at_most_one_line(bench: Bench) -> None:
    bench.script("train.py", "import torch; print('trained')")
    ended = bench.run("/usr/bin/python3", "train.py")
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert len(ended.stderr.splitlines()) <= 1
