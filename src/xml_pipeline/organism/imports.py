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
_MISSING = object()
_NOT_OURS = frozenset({"__main__", "xml_pipeline", *sys.stdlib_module_names})


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
        self._settled: set[str] = set()

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
        found = _attribute(parent, part, path)
        if found is not _MISSING:
            return found
        if isinstance(parent, ModuleType) and "__path__" in vars(parent):
            return self._import(path)
        kind = "module" if isinstance(parent, ModuleType) else "class"
        raise Unresolved(f"the {kind} {path.rpartition('.')[0]!r} has no {part!r}")

    def _give_way(self, name: str) -> None:
        """Set aside a module of another place, where the folder has one of this name."""
        if name in self._settled or name in _NOT_OURS:
            return
        self._settled.add(name)
        has_own = (self._folder / f"{name}.py").is_file() or (self._folder / name / "__init__.py").is_file()
        if has_own:
            for other in [known for known in list(sys.modules) if known == name or known.startswith(f"{name}.")]:
                del sys.modules[other]

    def _import(self, name: str) -> ModuleType:
        if name in self._failed:
            raise Unresolved(self._failed[name])
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may raise anything when it runs
            self._failed[name] = _why(name, error, self._folder)
            raise Unresolved(self._failed[name]) from error
        return module


def _attribute(parent: object, name: str, path: str) -> object:
    try:
        return getattr(parent, name, _MISSING)
    except Exception as error:  # a module may have a __getattr__
        raise Unresolved(f"{path!r} fails when it is looked at: {type(error).__name__}: {error}") from error


def _forget() -> None:
    for name, module in _loaded.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _loaded.clear()


def _remember(folder: Path, known: set[str]) -> None:
    """Note all modules of the folder that came along, so that the next load reads them again too."""
    for name in set(sys.modules) - known:
        if _is_own(name.partition(".")[0], folder):
            _loaded[name] = sys.modules[name]


def _is_own(top: str, folder: Path) -> bool:
    """Tell whether a top-level module is found in `folder` itself: an environment may lie further below."""
    module = sys.modules.get(top)
    if module is None or top in _NOT_OURS:
        return False
    places = [Path(place) for place in vars(module).get("__path__", ())]
    file = vars(module).get("__file__")
    if not places and file is not None:
        places.append(Path(file))
    return any(place.parent == folder for place in places)


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
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file.relative_to(folder), line) for file, line in places if file.is_relative_to(folder)]
    return f" ({own[-1][0]}:{own[-1][1]})" if own else ""
