"""The option files and `tide config`."""

import json
import pathlib

import cli_processes as processes
import pytest
from torchtide import errors
from torchtide.cli import core, settings


def read(folder: pathlib.Path, text: str) -> dict[str, str]:
    path = folder / "torchtide.toml"
    path.write_text(text)
    return {setting.name: setting.text for setting in settings.read(path, core.options())}


def test_tables_and_dotted_names_mean_the_same(tmp_path: pathlib.Path) -> None:
    text = 'daemon = "off"\n"lane.policy" = "rr"\n[job]\nlimit = "2GiB"\n'
    text += "[memory]\nhuge_pages = false\n"
    assert read(tmp_path, text) == {
        "daemon": "off",
        "lane.policy": "rr",
        "job.limit": "2GiB",
        "memory.huge_pages": "0",
    }


def test_an_option_that_shares_its_name_with_a_table_is_its_id(tmp_path: pathlib.Path) -> None:
    assert read(tmp_path, '[lane]\nid = 2\npolicy = "fair"\n') == {
        "lane": "2",
        "lane.policy": "fair",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("daemon = ", "not TOML"),
        ('deamon = "off"', "did you mean daemon?"),
        ('[job]\nlimit = "many"', '"many"'),
        ("[job]\nlimit = -1", "negative"),
        ("[job]\nlimit = nan", "not a number"),
        ("[job]\nlimit = [1]", "is a list"),
        ('[job]\npriority = "urgent"', "guaranteed, normal, opportunistic"),
        ('[memory]\nhuge_pages = "maybe"', "true nor false"),
        ("[lane]\nquantum_ms = 1.5", "no whole number"),
    ],
)
def test_what_a_file_cannot_say_is_refused_with_its_name(
    tmp_path: pathlib.Path, text: str, said: str
) -> None:
    with pytest.raises(errors.OptionError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value) and "torchtide.toml" in caught.value.asked
    assert caught.value.advice


def test_a_file_that_is_not_text_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "torchtide.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(errors.OptionError, match="not TOML"):
        settings.read(path, core.options())


def user_file(home: pathlib.Path, text: str) -> None:
    folder = home / ".config" / "torchtide"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)


def test_each_value_is_printed_with_where_it_comes_from(tmp_path: pathlib.Path) -> None:
    user_file(tmp_path, '[job]\nlimit = "1GiB"\nmin_memory = "64MiB"\n[spill]\nmax = "9GiB"\n')
    project = tmp_path / "project"
    project.mkdir()
    (project / "torchtide.toml").write_text('[job]\nlimit = "2GiB"\npriority = "guaranteed"\n')
    environ = processes.environment(tmp_path, TIDE_PRIORITY="opportunistic")
    ended = processes.tide(["config", "--json"], environ, project)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    value = {option["name"]: (option["value"], option["origin"]) for option in told["options"]}
    assert value["job.limit"] == ("2GiB", "file")
    assert value["job.min_memory"] == ("64MiB", "file")
    assert value["job.priority"] == ("opportunistic", "environment")
    assert value["lane.policy"] == ("fair", "default")
    assert len(told["files"]) == 2
    table = processes.tide(["config"], environ, project).stdout
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["job.limit"] == ["2GiB", "./torchtide.toml"]
    assert rows["spill.max"] == ["9GiB", "~/.config/torchtide/config.toml"]
    assert rows["job.priority"] == ["opportunistic", "TIDE_PRIORITY"]


def test_the_options_of_the_project_reach_the_job(tmp_path: pathlib.Path) -> None:
    (tmp_path / "torchtide.toml").write_text(
        'daemon = "off"\n[job]\nlimit = "2GiB"\n[spill]\nmax = "9GiB"\n'
    )
    environ = processes.environment(tmp_path, TIDE_SPILL_MAX="1GiB")
    ended = processes.tide(["run", "--", "env"], environ, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "TIDE_LIMIT=2GiB" in ended.stdout.splitlines()
    assert "TIDE_SPILL_MAX=1GiB" in ended.stdout.splitlines()
    assert not (tmp_path / "run").exists()


def test_a_broken_file_keeps_the_command_from_starting(tmp_path: pathlib.Path) -> None:
    (tmp_path / "torchtide.toml").write_text("[job\n")
    ended = processes.tide(
        ["run", "--", "echo", "started"], processes.environment(tmp_path), tmp_path
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "torchtide.toml" in ended.stderr
