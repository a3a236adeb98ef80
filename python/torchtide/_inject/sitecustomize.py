"""Runs at the start of each Python under `tide run`: waits for torch to be imported, then hooks it.

It keeps to the syntax of old Pythons, because a wrapper may start one that torchtide does not
support, and imports nothing that the interpreter has not loaded already.
"""
# ruff: noqa: PTH100, PTH118, PTH120, UP031, UP036

import os
import sys

TYPE_CHECKING = False  # typing itself is too slow to import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def _warn(text: str) -> None:
    try:
        sys.stderr.write("torchtide: " + text + "; the program runs without it\n")
    except (OSError, ValueError, AttributeError):
        pass  # stderr is closed: there is nobody to tell


def _import_torchtide() -> None:
    """The torchtide of this Python or, where it has none, the one that `tide run` belongs to."""
    try:
        import torchtide  # noqa: F401
    except ImportError as error:
        if error.name != "torchtide":
            raise
        from importlib.util import module_from_spec, spec_from_file_location

        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        spec = spec_from_file_location(
            "torchtide", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
        )
        if spec is None or spec.loader is None:
            raise
        module = sys.modules["torchtide"] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["torchtide"]
            raise


def _torch_is_here() -> None:
    """Runs once, after torch has been imported; what goes wrong here never reaches the program."""
    if sys.version_info < (3, 11):
        _warn("Python %d.%d is older than 3.11" % sys.version_info[:2])
        return
    try:
        _import_torchtide()
        from torchtide import _autostart
        from torchtide._launch import claim_process, is_spawned

        if claim_process():
            _autostart.install()
        elif is_spawned(sys.orig_argv):
            _autostart.install_when_a_rank()
    except (Exception, SystemExit) as error:
        _warn("not hooked, %s: %s" % (type(error).__name__, " ".join(str(error).split())))


class _Loader:
    """Stands in for torch's loader until torch has been executed, and then leaves no trace."""

    def __init__(self, finder: "_Finder", loader: "Loader") -> None:
        self._finder = finder
        self._loader = loader

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(
            self._loader, name
        )  # for those who only look, such as importlib.util.find_spec

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self._loader.create_module(spec)

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if (
            self._finder in sys.meta_path
        ):  # gone only now: an import of torch that fails may be retried
            sys.meta_path.remove(self._finder)
            _torch_is_here()


class _Finder:
    """First on sys.meta_path; lets everything pass but torch."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != "torch":
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(self, spec.loader)
                return spec  # type: ignore[no-any-return]
        return None


def _ignore_words() -> None:
    """SIGUSR1 for the job must not end its helpers, which a scheduler signals alike."""
    words = os.environ.get("TIDE_ON_SIGNAL", "")
    if not words:
        return
    import _signal  # type: ignore[import-not-found]  # builtin

    for entry in words.split(","):
        name = entry.partition("=")[0].strip().upper()
        if name[-4:] in ("USR1", "USR2", "TSTP"):
            _signal.signal(getattr(_signal, "SIG" + name[-4:]), _signal.SIG_IGN)


def _wait_for_torch() -> None:
    if os.environ.get("TIDE_RUN") != "1":
        return
    if os.environ.get("TIDE_DISABLE", "").lower() in ("1", "true", "t", "yes", "y"):
        return
    _ignore_words()
    if "torch" in sys.modules:  # a .pth file was faster
        _torch_is_here()
    else:
        sys.meta_path.insert(0, _Finder())


def _run_the_next_sitecustomize() -> None:
    """The user's or the distribution's, found and named as if ours were not there."""
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import PathFinder

    ours = os.path.dirname(os.path.realpath(__file__))
    rest = [entry for entry in sys.path if os.path.realpath(entry or ".") != ours]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = sys.modules["sitecustomize"] = module_from_spec(spec)
    spec.loader.exec_module(module)


_wait_for_torch()
_run_the_next_sitecustomize()
