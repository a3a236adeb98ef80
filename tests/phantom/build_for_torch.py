"""Builds, for the torch of the running Python, the libraries that stand in for NVIDIA's.

Which libraries and which symbols is read from that torch's own shared objects, so a new torch needs
no list of ours: what is not written by hand becomes a stub. The result is a folder of libraries and
a file `preload` with what belongs into LD_PRELOAD, in order.

usage: python build_for_torch.py --driver build/phantom --out build/phantom/torch-2.15
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
NVIDIA = re.compile(
    r"^lib(cudart|cublas|cublasLt|cudnn|cufft|cusolver|cusparse|cusparseLt|curand|cufile|nccl"
    r"|nvshmem_host|cupti|nvJitLink|nvrtc|cudss)\.so\.\d+$"
)
# Symbols without a version tag of their library are told by their prefix.
PREFIXES = {
    "cusparseLt": "libcusparseLt",
    "cuFile": "libcufile",
    "nccl": "libnccl",
    "nvshmem": "libnvshmem_host",
    "nvrtc": "libnvrtc",
    "cupti": "libcupti",
    "nvJitLink": "libnvJitLink",
}
RUNTIME_NOT_SUPPORTED = 801
HAND_WRITTEN = {
    "libcudart": ["runtime_device.cc", "runtime_kernels.cc"],
    "libcublas": ["libcublas.cc"],
    "libcublasLt": ["libcublas.cc"],
    "libcudnn": ["libcudnn.cc"],
    "libnccl": ["libnccl.cc"],
}


class BuildError(Exception):
    """What is missing for a phantom of this torch."""


def run(*command: str | pathlib.Path) -> str:
    """Output of a command.

    Raises:
        BuildError: with the command's own words.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(str(part) for part in command)}:\n{done.stderr[-3000:]}")
    return done.stdout


def torch_libraries() -> list[pathlib.Path]:
    """The shared objects of the installed torch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("this Python has no torch")
    found = sorted((pathlib.Path(spec.submodule_search_locations[0]) / "lib").glob("*.so"))
    if not any(path.name == "libc10_cuda.so" for path in found):
        raise BuildError("this torch is built without CUDA")
    return found


def include_folders() -> list[pathlib.Path]:
    """Folders of cuda_runtime_api.h, cublasLt.h and cudnn.h: of the wheels, else of a toolkit."""
    site = torch_libraries()[0].parents[2]
    folders = sorted(site.glob("nvidia/*/include"))
    if not any((folder / "cuda_runtime_api.h").exists() for folder in folders):
        folders.append(pathlib.Path("/usr/local/cuda/include"))
    for header in ("cuda_runtime_api.h", "cublasLt.h", "cudnn.h"):
        if not any((folder / header).exists() for folder in folders):
            raise BuildError(f"{header} is neither in the nvidia wheels nor in /usr/local/cuda")
    return folders


def needed(libraries: list[pathlib.Path]) -> dict[str, str]:
    """NVIDIA's libraries that torch links: stem -> soname."""
    names = set()
    for path in libraries:
        names |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path)))
    return {name.split(".so.")[0]: name for name in sorted(names) if NVIDIA.match(name)}


def undefined(libraries: list[pathlib.Path]) -> Iterator[tuple[str, str]]:
    """Symbols that torch takes from elsewhere, with their version tag or an empty text."""
    seen = set()
    for path in libraries:
        for line in run("nm", "-D", "--undefined-only", path).splitlines():
            name, _, tag = line.split()[-1].partition("@")
            if (name, tag) not in seen:
                seen.add((name, tag))
                yield name, tag.lstrip("@")


def assign(
    symbols: Iterator[tuple[str, str]], sonames: dict[str, str]
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Symbols of each library (with their tag), and those of the driver."""
    by_soname = {soname: stem for stem, soname in sonames.items()}
    libraries: dict[str, dict[str, str]] = {stem: {} for stem in sonames}
    driver = set()
    for name, tag in symbols:
        stem = by_soname.get(tag)
        for prefix, owner in PREFIXES.items():
            if stem is None and name.startswith(prefix) and owner in sonames:
                stem = owner
        if stem is not None:
            libraries[stem][name] = tag
        elif re.match(r"cu[A-Z]", name) and not tag:
            driver.add(name)
    return libraries, driver


def defined(*objects: pathlib.Path, dynamic: bool = False) -> set[str]:
    """Names that these objects define."""
    names = set()
    for path in objects:
        output = run("nm", *(["-D"] if dynamic else []), "--defined-only", path)
        names |= {line.split()[-1].split("@")[0] for line in output.splitlines() if line.split()}
    return names


def stubs(names: list[str], result: int) -> str:
    """C source of functions that answer `result` to everything."""
    return "".join(f"long {name}(void) {{ return {result}; }}\n" for name in names)


class Builder:
    """Compiles into one folder."""

    def __init__(self, driver: pathlib.Path, out: pathlib.Path) -> None:
        self.out = out
        self.driver = driver
        self.includes = [f"-isystem{folder}" for folder in include_folders()]
        self.link = [f"-L{out}", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN"]

    def compile(self, source: pathlib.Path, name: str, *flags: str) -> pathlib.Path:
        """One object."""
        target = self.out / f"{name}.o"
        language = ["-std=c++17", "-fvisibility=hidden"] if source.suffix == ".cc" else ["-w"]
        compiler = "g++" if source.suffix == ".cc" else "gcc"
        run(compiler, *language, "-O1", "-fPIC", "-c", *flags, source, "-o", target)
        return target

    def library(self, stem: str, soname: str, symbols: dict[str, str]) -> None:
        """One stand-in: what we wrote by hand and stubs for the rest."""
        objects = [
            self.compile(
                HERE / "torch" / source,
                f"{stem}-{index}",
                *self.includes,
                f"-DPHANTOM_{stem[3:].upper()}",
            )
            for index, source in enumerate(HAND_WRITTEN.get(stem, []))
        ]
        missing = sorted(set(symbols) - defined(*objects))
        source = self.out / f"{stem}-stubs.c"
        source.write_text(stubs(missing, RUNTIME_NOT_SUPPORTED if stem == "libcudart" else 0))
        objects.append(self.compile(source, f"{stem}-stubs"))
        # A library that has a tag must carry it, or the loader refuses.
        tags = sorted(set(symbols.values()) - {""})
        script = self.out / f"{stem}.map"
        script.write_text(
            "".join(f"{tag} {{ global: *; }};\n" for tag in tags) or "{ global: *; };"
        )
        run(
            "g++", "-shared", f"-Wl,-soname,{soname}", f"-Wl,--version-script={script}",
            "-o", self.out / soname, *objects, *self.link,
        )  # fmt: skip

    def driver_rest(self, names: set[str]) -> str:
        """Driver calls that torch links and the phantom has not."""
        source = self.out / "driver-rest.c"
        missing = sorted(names - defined(self.driver / "libcuda.so.1", dynamic=True))
        source.write_text(stubs(missing, RUNTIME_NOT_SUPPORTED))
        rest = self.out / "libphantom_driver_rest.so"
        run("gcc", "-shared", "-o", rest, self.compile(source, "driver-rest"))
        return rest.name


def stamp(driver: pathlib.Path) -> str:
    """Changes whenever the result would."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for path in sorted([*HERE.glob("torch/*"), pathlib.Path(__file__), driver / "libcuda.so.1"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(driver: pathlib.Path, out: pathlib.Path) -> list[str]:
    """Makes everything and returns the libraries to preload, in order."""
    preload = out / "preload"
    if preload.exists() and (out / "stamp").read_text() == stamp(driver):
        return preload.read_text().split(":")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        shutil.copy(driver / name, out / name)
    libraries = torch_libraries()
    sonames = needed(libraries)
    symbols, driver_names = assign(undefined(libraries), sonames)
    builder = Builder(driver, out)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(builder.library, s, sonames[s], symbols[s]) for s in sonames]
        for job in jobs:
            job.result()
    rest = builder.driver_rest(driver_names)
    ordered = ["libcuda.so.1", "libnvidia-ml.so.1", rest, sonames["libcudart"]]
    ordered += [name for stem, name in sonames.items() if stem != "libcudart"]
    paths = [str(out / name) for name in ordered]
    (out / "stamp").write_text(stamp(driver))
    preload.write_text(":".join(paths))
    return paths


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    try:
        paths = build(arguments.driver.resolve(), arguments.out.resolve())
    except BuildError as error:
        print(f"phantom: {error}", file=sys.stderr)
        return 1
    print(":".join(paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
