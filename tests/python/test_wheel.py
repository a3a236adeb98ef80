"""The wheel: built here, installed into a new environment, used without the source tree."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "torchtide"

#: What any Linux with glibc, a C++ runtime and Python has: the libraries that manylinux allows.
RUNTIME_LIBRARIES = (
    "ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libgcc_s.so",
    "libstdc++.so", "libz.so", "linux-vdso", "statically",
)  # fmt: skip

pytestmark = pytest.mark.slow


def staged() -> dict[str, float]:
    """Built files of the source tree and when they were written."""
    return {str(path): path.stat().st_mtime for path in PACKAGE.rglob("*") if path.suffix == ".so"}


@pytest.fixture(scope="module")
def wheel() -> pathlib.Path:
    """Path of a wheel built by scripts/wheel, which leaves the source tree alone."""
    command = [str(ROOT / "scripts" / "wheel")]
    before = staged()
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert staged() == before
    return ROOT / result.stdout.strip().splitlines()[-1]


def closure(*names: str) -> set[str]:
    """Distributions and what they require, by name, extras left out."""
    seen: set[str] = set()
    queue = list(names)
    while queue:
        name = re.split(r"[^A-Za-z0-9._-]", queue.pop())[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        for requirement in importlib.metadata.distribution(name).requires or []:
            if ";" not in requirement:  # a marker: an extra, another system or Python
                queue.append(requirement)
    return seen


def copy_requirements(site: pathlib.Path) -> None:
    """What the base install requires, copied from our environment: no network is needed."""
    for name in closure("msgpack", "typer", "rich"):
        for file in importlib.metadata.distribution(name).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), site / file)


@pytest.fixture(scope="module")
def base(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """bin/ of a new environment with the wheel and what pip would install with it: no torch."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    install(wheel, folder)
    [site] = folder.glob("lib/python*/site-packages")
    copy_requirements(site)
    return folder / "bin"


def install(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """A new environment with nothing but the wheel."""
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", *options, wheel], check=True, timeout=300)


@pytest.fixture(scope="module")
def clean(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """bin/ of a new environment with the wheel; what it depends on comes from ours by a path file.

    Installing torch again would take minutes.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    install(wheel, folder)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def run(command: list[str | pathlib.Path], folder: pathlib.Path) -> str:
    """Output of a command that sees neither our variables nor the source tree."""
    kept = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
    kept |= {"PATH": f"{folder}:/usr/bin:/bin", "TIDE_RUNTIME_DIR": str(folder / "run")}
    result = subprocess.run(
        command, capture_output=True, text=True, env=kept, cwd=folder, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_carries_modules_daemon_types_and_injection(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tided = archive.getinfo("torchtide/bin/tided")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    torch_minor = "_".join(importlib.metadata.version("torch").split(".")[:2])
    wanted = {
        f"torchtide/_core{suffix}",
        f"torchtide/_torch_{torch_minor}{suffix}",
        "torchtide/py.typed",
        "torchtide/_inject/sitecustomize.py",
    }
    assert wanted <= set(names)
    assert tided.external_attr >> 16 & 0o111, "bin/tided is not executable"
    assert not [
        name for name in names if name.startswith(("tests/", "csrc/")) or "__pycache__" in name
    ]


def test_the_wheel_brings_its_libraries_and_its_name_says_where_it_runs(
    wheel: pathlib.Path, base: pathlib.Path
) -> None:
    assert re.search(r"-manylinux_2_\d\d_x86_64\.whl$", wheel.name), wheel.name
    [package] = base.parent.glob("lib/python*/site-packages/torchtide")
    [libraries] = base.parent.glob("lib/python*/site-packages/torchtide.libs")
    objects = [package / "bin" / "tided", *package.glob("_core*.so"), *libraries.glob("*.so*")]
    assert len(objects) > 10
    for path in objects:
        for line in run(["ldd", path], base).splitlines():
            name, _, target = line.strip().partition(" => ")
            needed = pathlib.PurePath(name.split()[0]).name
            ours = os.path.normpath(target.split(" (")[0]).startswith(f"{libraries}/")
            assert ours or needed.startswith(RUNTIME_LIBRARIES), f"{path.name} needs {line}"


def test_the_base_install_is_enough_for_the_command_line(base: pathlib.Path) -> None:
    missing = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ["torch", "numpy", "textual", "matplotlib", "IPython"]
    assert run([base / "python", "-c", missing.format(names)], base) == "[]\n"
    for words in (["--help"], ["doctor", "--json"], ["config"], ["run", "--", "true"], ["ps"]):
        run([base / "tide", *words], base)
    assert "none in this Python" in run([base / "tide", "doctor"], base)
    run([base / "tide", "shutdown"], base)


def test_the_import_takes_little_time(base: pathlib.Path) -> None:
    code = (
        "import time; t = time.process_time(); import torchtide, torchtide.runtime; "
        "print(time.process_time() - t)"
    )
    assert min(float(run([base / "python", "-c", code], base)) for _ in range(5)) < 0.15


def test_the_installed_package_imports_from_where_it_was_installed(clean: pathlib.Path) -> None:
    said = run([clean / "python", "-c", "import torchtide; print(torchtide.__file__)"], clean)
    assert pathlib.Path(said.strip()).is_relative_to(clean.parent)


def test_the_installed_command_tells_its_version(clean: pathlib.Path) -> None:
    assert "0.1.0" in run([clean / "tide", "--version"], clean)


def test_the_installed_adapter_trains_a_step(clean: pathlib.Path) -> None:
    # torchtide first: a line "import torch" would have conftest.py repeat this file on torch 2.11,
    # whose environment did not build the wheel.
    code = """
import os
os.environ["TIDE_DAEMON"] = "off"
import torchtide, torch
torchtide.runtime.start()
model = torch.nn.Linear(1024, 1024)
for batch in torchtide.iterations([torch.ones(4, 1024)] * 3):
    model(batch).sum().backward()
print("trained", model.weight.grad.shape)
"""
    assert "trained" in run([clean / "python", "-c", code], clean)


@pytest.mark.skipif("TIDE_TEST_ROOT" not in os.environ, reason="TIDE_TEST_ROOT names no root")
def test_a_minimal_debian_needs_no_package_more_than_python(wheel: pathlib.Path) -> None:
    """As root, after `debootstrap --variant=minbase --include=python3 bookworm FOLDER`."""
    root = pathlib.Path(os.environ["TIDE_TEST_ROOT"])
    mounts = [root / "proc", root / "dev"]  # the loader finds a program's folder through /proc
    for mount in mounts:
        if not any(mount.iterdir()) or not os.path.ismount(mount):
            source = f"/{mount.name}"
            if subprocess.run(["mount", "--bind", source, mount], check=False).returncode != 0:
                pytest.skip("mounting is not permitted here")
    try:
        use_wheel_in(root, wheel)
    finally:
        for mount in mounts:
            subprocess.run(["umount", mount], check=True)


def use_wheel_in(root: pathlib.Path, wheel: pathlib.Path) -> None:
    """Unpacks the wheel under a root and runs some commands there."""
    site = root / "opt" / "site"
    shutil.rmtree(site, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "torchtide" / "bin" / "tided").chmod(0o755)
    copy_requirements(site)
    trace = "job_id,submit_s,gpus,duration_s\n1,0,1,60\n2,5,2,30\n"
    (root / "opt" / "trace.csv").write_text(trace)
    kept = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": "/root", "PYTHONPATH": "/opt/site"}
    kept |= {"TIDE_RUNTIME_DIR": "/opt/run", "TIDE_CAPACITY": "1GiB"}
    tide = ["chroot", str(root), "python3", "-m", "torchtide"]
    for words in (
        ["run", "--", "true"],
        ["ps"],
        ["simulate", "/opt/trace.csv", "-p", "srtf", "--cluster", "2"],
        ["shutdown"],
    ):
        ended = subprocess.run([*tide, *words], env=kept, capture_output=True, text=True)
        assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
