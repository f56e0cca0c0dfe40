"""Import the modules of an organism from its folder, freshly, and find in them what the file names."""

from __future__ import annotations

import importlib
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_lock = threading.RLock()
_loaded: dict[str, ModuleType] = {}


class Unresolved(Exception):
    """A dotted name that leads nowhere; the message says why."""


@contextmanager
def fresh_imports(folder: Path) -> Iterator[Resolver]:
    """Give a resolver for the modules in `folder`, as they are on the disk now; one at a time in a process.

    What an earlier call imported is forgotten first. Byte code is not written: an edit within the same second and of
    the same size would be taken for no edit. What was imported stays in `sys.modules`, the search path does not stay.
    """
    place = str(folder.resolve())
    with _lock:
        before, writes = list(sys.path), sys.dont_write_bytecode
        _forget()
        known = set(sys.modules)
        sys.path.insert(0, place)
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        try:
            yield Resolver(Path(place))
        finally:
            sys.path[:] = before
            sys.dont_write_bytecode = writes
            _remember(Path(place), known)


class Resolver:
    """Finds objects by dotted names; a module that fails is imported once and fails for all its names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed: dict[str, str] = {}

    def resolve(self, name: str) -> object:
        """Find `module.Name` or `package.module.Outer.Inner`; raise Unresolved."""
        head, *rest = name.split(".")
        self._give_way(head)
        found: object = self._import(head)
        path = head
        for part in rest:
            path = f"{path}.{part}"
            found = self._step(found, part, path)
        return found

    def _step(self, parent: object, part: str, path: str) -> object:
        if hasattr(parent, part):
            found: object = getattr(parent, part)
            return found
        if isinstance(parent, ModuleType) and hasattr(parent, "__path__"):
            return self._import(path)
        kind = "module" if isinstance(parent, ModuleType) else "class"
        raise Unresolved(f"the {kind} {path.rpartition('.')[0]!r} has no {part!r}")

    def _give_way(self, name: str) -> None:
        """Set aside a module of another place, where the folder has one of this name."""
        module = sys.modules.get(name)
        if module is None or name == "__main__" or name in sys.stdlib_module_names:
            return
        has_own = (self._folder / f"{name}.py").is_file() or (self._folder / name / "__init__.py").is_file()
        if has_own and _loaded.get(name) is not module:
            for other in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
                del sys.modules[other]

    def _import(self, name: str) -> ModuleType:
        if name in self._failed:
            raise Unresolved(self._failed[name])
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may raise anything when it runs
            self._failed[name] = _why(name, error, self._folder)
            raise Unresolved(self._failed[name]) from error
        _loaded[name] = module
        return module


def _forget() -> None:
    for name, module in _loaded.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _loaded.clear()


def _remember(folder: Path, known: set[str]) -> None:
    """Note all modules of the folder that came along, so that the next load reads them again too."""
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        if file is not None and _is_own(Path(file), folder):
            _loaded[name] = module


def _is_own(file: Path, folder: Path) -> bool:
    """Tell whether a module is the organism's, not of an environment that lies below its folder."""
    return file.is_relative_to(folder) and "site-packages" not in file.relative_to(folder).parts


def _why(name: str, error: BaseException, folder: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if name == error.name or name.startswith(f"{error.name}."):
            return f"there is no module {error.name!r} in {folder}, nor among those that are installed"
        return f"the module {name!r} imports {error.name!r}, which is not there{_where(error, folder)}"
    if isinstance(error, SyntaxError):
        return f"the module {name!r} is no Python: {error.msg} at line {error.lineno}"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"the module {name!r} fails when it is imported{_where(error, folder)}: {said}"


def _where(error: BaseException, folder: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename), folder)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
