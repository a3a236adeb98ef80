"""`tide doctor` on machines made of a few files."""

import json
import pathlib
import sysconfig
from typing import Any

import pytest
from cli_fake_daemon import FakeDaemon
from torchtide import errors
from torchtide.cli import checks, checks_gpu, doctor, main
from torchtide.cli.checks import FAIL, OK, WARN, Finding, Host
from torchtide.cli.edges import Edges

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:20 / /dev/shm rw - tmpfs tmpfs rw
24 22 0:21 / /mnt/fast\\040disk rw shared:1 - xfs /dev/sdb rw
25 22 0:22 / /net rw - nfs4 server:/ rw
"""


def host(root: pathlib.Path, torch: str | None = "2.15.0+cpu", **environ: str) -> Host:
    return Host(root=root, environ=environ, package=root / "package", torch_version=lambda: torch)


def put(root: pathlib.Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.11.0", OK),
        ("2.15.1+cu132", OK),
        ("2.10.2", FAIL),
        ("2.16.0a0", FAIL),
        (None, WARN),
        ("x", FAIL),
    ],
)
def test_torch_is_supported_from_2_11_to_2_15(
    tmp_path: pathlib.Path, version: str | None, level: str
) -> None:
    assert levels(checks.torch(host(tmp_path, version))) == [level]


def test_the_installed_torch_is_found_without_importing_it() -> None:
    import sys

    before = "torch" in sys.modules
    version = checks.installed_torch()
    assert version is None or version[0].isdigit()
    assert ("torch" in sys.modules) == before


def test_modules_are_looked_for_by_this_python_and_this_torch(tmp_path: pathlib.Path) -> None:
    assert levels(checks.modules(host(tmp_path))) == [FAIL, FAIL, FAIL]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in (f"_core{suffix}", f"_torch_2_15{suffix}", "bin/tided"):
        put(tmp_path, f"package/{name}", "")
    (tmp_path / "package/bin/tided").chmod(0o755)
    assert levels(checks.modules(host(tmp_path))) == [OK, OK]
    put(tmp_path, "package/_torch_2_11.cpython-39-x86_64-linux-gnu.so", "")
    found = checks.modules(host(tmp_path, "2.11.0"))
    assert "another Python" in found[1].found


def test_file_systems_are_named_by_the_longest_mount_above() -> None:
    named = {
        p: checks.file_system(pathlib.Path(p), MOUNTS)
        for p in ("/x", "/dev/shm/a", "/mnt/fast disk/b", "/net")
    }
    assert named == {"/x": "ext4", "/dev/shm/a": "tmpfs", "/mnt/fast disk/b": "xfs", "/net": "nfs4"}


@pytest.mark.parametrize(("kind", "level"), [("tmpfs", FAIL), ("ext4", OK), ("nfs4", WARN)])
def test_demoted_pages_need_a_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str
) -> None:
    put(tmp_path, "/proc/self/mountinfo", f"22 1 8:1 / / rw - {kind} dev rw\n")
    monkeypatch.setenv("TIDE_SPILL_DIR", str(tmp_path / "spill"))
    monkeypatch.setenv("TIDE_SPILL_FREE_MIN", "1MiB")
    assert levels(checks.spill(host(tmp_path))) == [level]
    monkeypatch.setenv("TIDE_SPILL_FREE_MIN", "1000TiB")
    if kind == "ext4":
        assert levels(checks.spill(host(tmp_path))) == [WARN]


def test_without_the_option_demoted_pages_go_to_the_users_cache() -> None:
    assert str(checks.spill_folder("", {"HOME": "/h"})) == "/h/.cache/torchtide"
    assert str(checks.spill_folder("", {"XDG_CACHE_HOME": "/c"})) == "/c/torchtide"
    assert str(checks.spill_folder("/s", {"HOME": "/h"})) == "/s"


def test_huge_pages_switched_off_are_a_warning(tmp_path: pathlib.Path) -> None:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    assert levels(checks.huge_pages(host(tmp_path))) == [WARN]
    put(tmp_path, path, "always [madvise] never")
    assert levels(checks.huge_pages(host(tmp_path))) == [OK]
    put(tmp_path, path, "always madvise [never]")
    assert levels(checks.huge_pages(host(tmp_path))) == [WARN]


def test_the_least_memory_limit_above_us_counts(tmp_path: pathlib.Path) -> None:
    assert checks.memory_limit(host(tmp_path))[0].found == "no memory limit"
    put(tmp_path, "/proc/self/cgroup", "0::/user.slice/job")
    put(tmp_path, "/sys/fs/cgroup/user.slice/job/memory.max", "max")
    put(tmp_path, "/sys/fs/cgroup/user.slice/memory.max", str(4 << 30))
    assert "4 GiB" in checks.memory_limit(host(tmp_path))[0].found
    put(tmp_path, "/proc/self/cgroup", "5:cpu,memory:/a\n4:pids:/b")
    put(tmp_path, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes", str(512 << 20))
    assert levels(checks.memory_limit(host(tmp_path))) == [WARN]


@pytest.mark.parametrize(
    ("preload", "expected"),
    [
        ("", [OK]),
        ("/usr/lib/libjemalloc.so.2", [OK]),
        ("/a/libvgpu.so:/b/libtcmalloc.so /c/torch_memory_saver.abi3.so", [WARN, OK, WARN]),
    ],
)
def test_preloaded_libraries_that_do_the_same_are_named(
    tmp_path: pathlib.Path, preload: str, expected: list[str]
) -> None:
    assert levels(checks.preloads(host(tmp_path, LD_PRELOAD=preload))) == expected


def test_a_runtime_directory_open_to_others_is_a_failure_with_its_fix(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setenv("TIDE_RUNTIME_DIR", str(folder))
    assert levels(checks.runtime_folder(host(tmp_path))) == [OK]
    folder.mkdir()
    folder.chmod(0o755)
    found = checks.runtime_folder(host(tmp_path))[0]
    assert (found.level, found.fix) == (FAIL, f"chmod 700 {folder}")


def test_the_off_switch_is_a_warning(tmp_path: pathlib.Path) -> None:
    assert levels(checks.switched_off(host(tmp_path, TIDE_DISABLE="1"))) == [WARN]
    assert levels(checks.switched_off(host(tmp_path, TIDE_DAEMON="off"))) == [WARN]
    assert levels(checks.switched_off(host(tmp_path))) == [OK]


def examined(edges: Edges, tmp_path: pathlib.Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.examine(edges, host(tmp_path))}


def test_the_daemon_is_asked_and_its_absence_is_no_fault(tmp_path: pathlib.Path) -> None:
    daemon = FakeDaemon()
    assert "pid 7" in examined(Edges(connect=daemon.connect), tmp_path)["daemon"].found

    def none(path: str, timeout_s: float) -> FakeDaemon:
        raise errors.DaemonUnavailable("no daemon is running", advice="`tide run` starts one")

    assert examined(Edges(connect=none), tmp_path)["daemon"].level == OK

    def foreign(path: str, timeout_s: float) -> FakeDaemon:
        raise errors.NotPermitted("it belongs to user 0", advice="use your own")

    assert examined(Edges(connect=foreign), tmp_path)["daemon"].level == FAIL


def test_a_check_that_breaks_is_a_warning_and_not_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Host) -> list[Finding]:
        raise RuntimeError("strange machine")

    monkeypatch.setattr(checks, "ALL", (broken, checks.python))
    found = examined(Edges(connect=FakeDaemon().connect), tmp_path)
    assert found["broken"].level == WARN and found["python"].level == OK


def test_json_lists_every_check_and_a_failure_is_exit_code_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("sky", FAIL, "it falls", "hold it")
    monkeypatch.setattr(checks, "ALL", (lambda _: [finding],))
    edges = Edges(connect=FakeDaemon().connect)
    assert main(["doctor", "--json"], edges) == 1
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["checks"][0] == {
        "name": "sky",
        "level": "fail",
        "found": "it falls",
        "fix": "hold it",
    }
    assert main(["doctor"], edges) == 1
    said = capsys.readouterr().out
    assert "fail sky: it falls\n     fix: hold it\n" in said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TIDE_CUDA_HOOK", "off", "it stays PyTorch's"),
        ("TIDE_CUDA_HOOK", "malloc", "by whole segments"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments: False", "by whole segments"),
        ("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync", "has no pages to move"),
    ],
)
def test_what_is_set_against_the_hook_of_devices_is_told(
    tmp_path: pathlib.Path, variable: str, value: str, said: str
) -> None:
    (found,) = checks.device_memory(host(tmp_path, **{variable: value}))
    assert (found.level, found.fix) == (WARN, f"unset {variable}")
    assert said in found.found
    harmless = host(tmp_path, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
    assert levels(checks.device_memory(harmless)) == [OK]


@pytest.mark.parametrize(
    ("way", "level", "said"),
    [
        ("table", OK, "by pages"),
        ("malloc", OK, "through cudaMalloc"),
        ("pool", WARN, "on one device"),
        ("fraction", WARN, "no page can move"),
    ],
)
def test_the_way_to_device_memory_is_told_with_its_reason(way: str, level: str, said: str) -> None:
    answer = {"way": way, "way_reason": "two places", "name": "A GPU"}
    (found,) = checks_gpu.findings(answer)
    assert found.level == level and said in found.found and "(two places)" in found.found
    assert bool(found.fix) == (level == WARN)


def test_a_probe_that_breaks_is_a_finding(tmp_path: pathlib.Path) -> None:
    (tmp_path / "torchtide").mkdir()
    (tmp_path / "torchtide" / "__init__.py").touch()
    (tmp_path / "torchtide" / "_gpu_probe.py").write_text("raise SystemExit('no luck')")
    (found,) = checks_gpu.examine({"PYTHONPATH": str(tmp_path)})
    assert found.level == FAIL and "no luck" in found.found


def test_other_ways_to_share_a_device_are_told(tmp_path: pathlib.Path) -> None:
    assert levels(checks.device_sharing(host(tmp_path))) == [OK]
    put(tmp_path, "/tmp/nvidia-mps/control", "")
    put(tmp_path, "/run/mps/control", "")
    (found,) = checks.device_sharing(host(tmp_path))
    assert (found.level, found.fix) == (WARN, "echo quit | nvidia-cuda-mps-control")
    elsewhere = host(tmp_path, CUDA_MPS_PIPE_DIRECTORY="/nowhere")
    assert levels(checks.device_sharing(elsewhere)) == [OK]
    named = host(tmp_path, CUDA_MPS_PIPE_DIRECTORY="/run/mps", CUDA_VISIBLE_DEVICES="MIG-1a2b")
    assert levels(checks.device_sharing(named)) == [WARN, OK]


def test_each_finding_that_is_not_ok_comes_with_its_fix(
    tmp_path: pathlib.Path,
) -> None:
    put(tmp_path, "/tmp/nvidia-mps/control", "")
    put(tmp_path, "/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
    broken = host(
        tmp_path, "2.10.0", TIDE_DISABLE="1", TIDE_CUDA_HOOK="off", LD_PRELOAD="libvgpu.so"
    )
    findings = [finding for check in checks.ALL for finding in check(broken)]
    bad = [finding for finding in findings if finding.level != OK]
    assert len(bad) >= 7
    assert [finding for finding in bad if not finding.fix] == []
