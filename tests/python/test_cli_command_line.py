"""What `tide run` reads out of a command: a name, and whether Python would keep tide out."""

import pathlib
import shlex

import pytest
from torchtide.cli import command_line


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python train.py --lr 0.1", "train"),
        ("python3.12 -u -W ignore -X dev exps/big_run.py -m x", "big_run"),
        ("/opt/venv/bin/python -Wdefault -um pkg.train", "pkg.train"),
        ("python -m pkg.__main__", "pkg"),
        ("python pkg/__main__.py", "pkg"),
        ("python -c 'import torch'", "python"),
        ("python -", "python"),
        ("python", "python"),
        ("bash run.sh", "run"),
        ("bash -eux -o pipefail scripts/run.sh a", "run"),
        ("sh -c 'python train.py --x 1'", "train"),
        ("sh -c 'cd x && python train.py'", "sh"),
        ("sh -c 'CUDA_VISIBLE_DEVICES= exec python train.py'", "train"),
        ("bash -lc 'python train.py'", "train"),
        ("bash", "bash"),
        ("torchrun --nproc-per-node 2 x.py --lr 1", "x"),
        ("torchrun --standalone --nproc_per_node=2 -m pkg.train", "pkg.train"),
        ("python -m torch.distributed.run --nproc-per-node 2 x.py", "x"),
        ("python /venv/bin/torchrun --nproc-per-node 2 x.py", "x"),
        ("accelerate launch --multi_gpu --num_processes 2 fit.py", "fit"),
        ("env A=1 B=2 python train.py", "train"),
        ("nice -n 5 nohup python train.py", "train"),
        ("uv run --with numpy train.py", "train"),
        ("timeout 60 bash run.sh", "run"),
        ("nice -n 5 ./solver", "nice"),
        ("./my-train.py", "my-train"),
        ("my-train --config a.yaml", "my-train"),
        ("python 'my model (v2).py'", "my model (v2)"),
        ("python 模型.py", "模型"),
        ("python v1.2/resnet.50.py", "resnet.50"),
        ("pythonista run.py", "pythonista"),
    ],
)
def test_the_job_is_named_after_what_it_runs(command: str, name: str) -> None:
    inspection = command_line.inspect(shlex.split(command))
    assert (inspection.name, inspection.refused_option) == (name, "")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("python -I train.py", "-I"),
        ("python3 -E -m pkg.train", "-E"),
        ("python -uS train.py", "-S"),
        ("/usr/bin/python3.11 -W ignore -sE train.py", "-E"),
        ("env A=1 python -I train.py", "-I"),
        ("bash -c 'python -I train.py'", "-I"),
        ("nice python -Ic 'import torch'", "-I"),
    ],
)
def test_a_python_that_ignores_its_environment_is_refused_with_a_fix(
    command: str, option: str
) -> None:
    inspection = command_line.inspect(shlex.split(command))
    assert inspection.refused_option == option
    assert inspection.advice


@pytest.mark.parametrize(
    "command",
    [
        "python train.py -I",
        "python -m pkg -E",
        "python -s -P -B train.py",
        "python -WIgnore -Xfrozen t.py",
        "python -c 'x' -S",
        "bash run.sh -I",
        "python -- -I.py",
    ],
)
def test_the_same_letters_further_back_belong_to_the_program(command: str) -> None:
    assert command_line.inspect(shlex.split(command)).refused_option == ""


def test_a_script_whose_first_line_isolates_python_is_refused(tmp_path: pathlib.Path) -> None:
    for first_line in ("#!/usr/bin/python3 -sE", "#!/usr/bin/env -S python3 -I"):
        script = tmp_path / "tool"
        script.write_text(f"{first_line}\nprint(1)\n")
        script.chmod(0o755)
        assert command_line.inspect([str(script)]).refused_option in ("-E", "-I")
    script.write_text("#!/usr/bin/env python3\nprint(1)\n")
    assert command_line.inspect([str(script)]) == command_line.Inspection("tool")


def test_a_long_name_is_cut_between_characters() -> None:
    name = command_line.fit_name("ü" * 40)
    assert name == "ü" * 31
    assert len(name.encode()) <= command_line.NAME_BYTES_MAX


def test_control_characters_do_not_become_part_of_a_name() -> None:
    assert command_line.inspect(["python", "a\nb\t c.py"]).name == "a b c"
