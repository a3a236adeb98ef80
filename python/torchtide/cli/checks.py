"""The checks of `tide doctor` that look at files, limits and variables of a `Host`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torchtide.cli import core

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

TORCH_MIN: Final = (2, 11)
TORCH_MAX: Final = (2, 15)
_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "lustre"}
)
#: Libraries that take the allocator over, and what that means beside us.
_PRELOADS: Final = {
    "vgpu": "HAMi-core limits the same memory a second time",
    "nvshare": "nvshare schedules the same device a second time",
    "torch_memory_saver": "torch_memory_saver moves the same pages",
    "kvcached": "kvcached maps the same pages",
    "asan": "AddressSanitizer replaces the allocator and multiplies memory",
}
_HARMLESS_PRELOADS: Final = ("jemalloc", "tcmalloc", "mimalloc")
_SHM_FREE_MIN: Final = 64 << 20


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is one command or change, empty when there is nothing to do."""

    name: str
    level: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Host:
    """The machine that is looked at; tests give a folder that looks like one."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    package: Path = Path(__file__).resolve().parent.parent
    torch_version: Callable[[], str | None] = field(default_factory=lambda: installed_torch)

    def read(self, path: str) -> str | None:
        """Text of a small file of the machine, or None."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None


def installed_torch() -> str | None:
    """Version of the torch that this Python would import, without importing it."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
        stated = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", text)
        if stated:
            return stated.group(1)
    except OSError:
        pass
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def python(host: Host) -> list[Finding]:
    """Python 3.11 or newer, 64 bits."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 11) or sys.maxsize < 2**32:
        return [Finding("python", FAIL, version, "use a 64-bit Python 3.11 or newer")]
    return [Finding("python", OK, f"{version}, {sys.executable}")]


def torch(host: Host) -> list[Finding]:
    """A torch that there is an adapter for."""
    version = host.torch_version()
    span = "{}.{} to {}.{}".format(*TORCH_MIN, *TORCH_MAX)
    if version is None:
        return [
            Finding(
                "torch",
                WARN,
                "none in this Python",
                "pip install torch, or run `tide` from the job's venv",
            )
        ]
    numbers = re.match(r"(\d+)\.(\d+)", version)
    minor = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not TORCH_MIN <= minor <= TORCH_MAX:
        fix = f"install one of {span}: jobs of another one run unhooked"
        return [Finding("torch", FAIL, f"{version}; supported are {span}", fix)]
    return [Finding("torch", OK, version)]


def modules(host: Host) -> list[Finding]:
    """The extension modules and the daemon are there, for this Python and this torch."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    fix = "build them: ./scripts/setup, or pip install --force-reinstall torchtide"
    findings = []
    for name in ("_core", *_adapter_name(host)):
        built = sorted(path.name for path in host.package.glob(f"{name}.*so"))
        if f"{name}{suffix}" in built or f"{name}.abi3.so" in built:
            findings.append(Finding("modules", OK, f"{name} is there"))
        elif built:
            findings.append(
                Finding("modules", FAIL, f"{name} is for another Python: {built[0]}", fix)
            )
        else:
            findings.append(Finding("modules", FAIL, f"{name} is missing", fix))
    daemon = host.package / "bin" / "tided"
    if not os.access(daemon, os.X_OK):
        findings.append(Finding("modules", FAIL, "the daemon bin/tided is missing", fix))
    return findings


def _adapter_name(host: Host) -> list[str]:
    numbers = re.match(r"(\d+)\.(\d+)", host.torch_version() or "")
    return [f"_torch_{numbers[1]}_{numbers[2]}"] if numbers else []


def switched_off(host: Host) -> list[Finding]:
    """TIDE_DISABLE and TIDE_DAEMON."""
    if host.environ.get("TIDE_DISABLE", "").lower() in ("1", "true", "t", "yes", "y"):
        return [
            Finding(
                "off switch", WARN, "TIDE_DISABLE is set: nothing is hooked", "unset TIDE_DISABLE"
            )
        ]
    if host.environ.get("TIDE_DAEMON") == "off":
        return [
            Finding(
                "off switch", WARN, "TIDE_DAEMON=off: jobs are on their own", "unset TIDE_DAEMON"
            )
        ]
    return [Finding("off switch", OK, "not set")]


def shared_memory(host: Host) -> list[Finding]:
    """/dev/shm, which data loaders and memfds of other tools need."""
    path = host.root / "dev/shm"
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return [Finding("/dev/shm", WARN, "not there", "mount it; in a container: --shm-size=1g")]
    size = core.format_bytes(free)
    if free < _SHM_FREE_MIN:
        return [
            Finding(
                "/dev/shm",
                WARN,
                f"{size} free: data loaders will fail",
                "in a container: --shm-size=1g",
            )
        ]
    return [Finding("/dev/shm", OK, f"{size} free")]


def spill(host: Host) -> list[Finding]:
    """The folder of demoted pages is on a disk that has room."""
    values = {option["name"]: option["value"] for option in core.options()}
    folder = spill_folder(values.get("spill.dir", ""), host.environ)
    least = core.parse_bytes(values.get("spill.free_min", "1GiB"), "spill.free_min")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    kind = file_system(there, host.read("/proc/self/mountinfo") or "")
    named = f"{folder} ({kind})"
    if kind in _MEMORY_FILE_SYSTEMS:
        return [
            Finding(
                "spill",
                FAIL,
                f"{named} is memory itself",
                "name a folder on a disk: TIDE_SPILL_DIR=/var/tmp/tide",
            )
        ]
    if not os.access(there, os.W_OK):
        return [
            Finding(
                "spill",
                FAIL,
                f"{named} is not yours to write",
                "name a folder of yours on a disk: TIDE_SPILL_DIR=/var/tmp/tide",
            )
        ]
    free = shutil.disk_usage(there).free
    size = core.format_bytes(free)
    if free < 2 * least:
        fix = "free some, or TIDE_SPILL_DIR=FOLDER on a larger disk"
        return [
            Finding(
                "spill",
                WARN,
                f"{named} has {size} free; {core.format_bytes(least)} stay untouched",
                fix,
            )
        ]
    if kind in _NETWORK_FILE_SYSTEMS:
        return [
            Finding(
                "spill", WARN, f"{named} is across a network: slow", "TIDE_SPILL_DIR=/var/tmp/tide"
            )
        ]
    return [Finding("spill", OK, f"{named}, {size} free")]


def spill_folder(stated: str, environ: Mapping[str, str]) -> Path:
    """Where demoted pages go: option spill.dir, else the user's cache."""
    if stated:
        return Path(stated).absolute()
    cache = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', str(Path.home()))}/.cache"
    return Path(cache).absolute() / "torchtide"


def file_system(path: Path, mountinfo: str) -> str:
    """Type of the file system that holds `path`: the longest mount point above it."""
    best, kind = -1, "unknown"
    target = os.path.realpath(path)
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind


def huge_pages(host: Host) -> list[Finding]:
    """Transparent huge pages, which make moving memory cheaper."""
    text = host.read("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text or "")
    if chosen is None:
        return [
            Finding(
                "huge pages",
                WARN,
                "the kernel says nothing about them",
                "a kernel with CONFIG_TRANSPARENT_HUGEPAGE; it works without",
            )
        ]
    if chosen[1] == "never":
        fix = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        return [Finding("huge pages", WARN, "never: moving pages is slower", fix)]
    return [Finding("huge pages", OK, chosen[1])]


def memory_limit(host: Host) -> list[Finding]:
    """The cgroup's memory limit, from which the capacity is derived."""
    limits = _cgroup_limits(host)
    if not limits:
        return [Finding("cgroup", OK, "no memory limit")]
    least = min(limits)
    size = core.format_bytes(least)
    if least < 1 << 30:
        return [
            Finding(
                "cgroup",
                WARN,
                f"{size} for everything here",
                "give the container or slice more memory",
            )
        ]
    return [Finding("cgroup", OK, f"memory limit {size}; capacity is derived from it")]


def _cgroup_limits(host: Host) -> list[int]:
    """Memory limits of our cgroup and those above it, versions 2 and 1."""
    limits = []
    for line in (host.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base, file = (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            if controllers
            else (
                "/sys/fs/cgroup",
                "memory.max",
            )
        )
        folder = Path(path.strip("/"))
        for part in (folder, *folder.parents):
            text = host.read(f"{base}/{part}/{file}")
            if text and text.isdigit() and int(text) < 1 << 60:
                limits.append(int(text))
    return limits


def address_space(host: Host) -> list[Finding]:
    """`ulimit -v`: each heap reserves a range of addresses, which costs no memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return [Finding("address space", OK, "unlimited")]
    return [
        Finding(
            "address space",
            FAIL,
            f"limited to {core.format_bytes(soft)}: the heap's range cannot be reserved",
            "ulimit -v unlimited, or a smaller TIDE_ADDRESS_SPACE",
        )
    ]


def tracing(host: Host) -> list[Finding]:
    """Yama's ptrace scope, which people suspect and which does not matter."""
    scope = host.read("/proc/sys/kernel/yama/ptrace_scope")
    said = "not there" if scope is None else scope
    return [Finding("ptrace scope", OK, f"{said} (does not matter: nothing is attached to)")]


def preloads(host: Host) -> list[Finding]:
    """Libraries in LD_PRELOAD that do the same as we do."""
    libraries = re.split(r"[:\s]+", host.environ.get("LD_PRELOAD", "").strip())
    text = host.read("/etc/ld.so.preload")
    libraries += text.split() if text else []
    findings = []
    for library in filter(None, libraries):
        name = Path(library).name
        clash = next((why for key, why in _PRELOADS.items() if key in name), None)
        if clash:
            findings.append(
                Finding("preload", WARN, f"{name}: {clash}", "leave it out of LD_PRELOAD")
            )
        elif any(known in name for known in _HARMLESS_PRELOADS):
            findings.append(
                Finding("preload", OK, f"{name}: keeps the small blocks, which is fine")
            )
        else:
            findings.append(Finding("preload", OK, f"{name}: not known to interfere"))
    return findings or [Finding("preload", OK, "none")]


def device_memory(host: Host) -> list[Finding]:
    """What would take the memory of a GPU out of the hook's hands, or choose a way to it."""
    name = "device memory"
    findings = []
    hook = host.environ.get("TIDE_CUDA_HOOK", "auto")
    chosen = {
        "off": "it stays PyTorch's",
        "fraction": "it stays PyTorch's, with its own limit",
        "malloc": "it moves by whole segments",
        "pool": "it moves by whole segments",
    }
    if hook in chosen:
        why = f"TIDE_CUDA_HOOK={hook}: {chosen[hook]}"
        findings.append(Finding(name, WARN, why, "unset TIDE_CUDA_HOOK"))
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        stated = host.environ.get(variable, "").replace(" ", "").lower()
        if "expandable_segments:false" in stated:
            why = f"{variable} turns expandable segments off: it moves by whole segments"
            findings.append(Finding(name, WARN, why, f"unset {variable}"))
        if "backend:cudamallocasync" in stated:
            why = f"{variable} chooses cudaMallocAsync, which has no pages to move"
            findings.append(Finding(name, WARN, why, f"unset {variable}"))
    return findings or [Finding(name, OK, "nothing is set against the hook")]


def device_sharing(host: Host) -> list[Finding]:
    """MPS and MIG: other ways to share a GPU, beside ours."""
    name, findings = "device sharing", []
    pipe = host.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    if (host.root / pipe.lstrip("/") / "control").exists():
        why = "an MPS server runs: jobs compute at once although they take turns"
        findings.append(Finding(name, WARN, why, "echo quit | nvidia-cuda-mps-control"))
    if "MIG-" in host.environ.get("CUDA_VISIBLE_DEVICES", ""):
        why = "CUDA_VISIBLE_DEVICES names a slice of a GPU (MIG): its size is the device's"
        findings.append(Finding(name, OK, why))
    return findings or [Finding(name, OK, "neither MPS nor MIG")]


def runtime_folder(host: Host) -> list[Finding]:
    """The folder of the socket and the device table is the user's alone."""
    path = core.runtime_dir()
    name = "runtime dir"
    try:
        found = path.lstat()
    except FileNotFoundError:
        return [Finding(name, OK, f"{path} (made when needed)")]
    except PermissionError:
        return [
            Finding(name, FAIL, f"{path} cannot be entered", "TIDE_RUNTIME_DIR=$HOME/.torchtide")
        ]
    if not stat.S_ISDIR(found.st_mode):
        return [
            Finding(name, FAIL, f"{path} is no folder", f"rm {path}, or another TIDE_RUNTIME_DIR")
        ]
    if found.st_uid != os.geteuid():
        whose = f"{path} belongs to user {found.st_uid}"
        return [Finding(name, FAIL, whose, "TIDE_RUNTIME_DIR=$HOME/.torchtide")]
    if found.st_mode & 0o077:
        return [Finding(name, FAIL, f"{path} is open to others", f"chmod 700 {path}")]
    return [Finding(name, OK, str(path))]


#: In the order in which they are told.
ALL: Final[tuple[Callable[[Host], list[Finding]], ...]] = (
    python,
    torch,
    modules,
    switched_off,
    shared_memory,
    spill,
    huge_pages,
    memory_limit,
    address_space,
    tracing,
    preloads,
    device_memory,
    device_sharing,
    runtime_folder,
)
