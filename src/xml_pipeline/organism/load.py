"""From an organism.yaml to an Organism, or to all its faults, each with its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from xml_pipeline.errors import Fault, InvalidOrganism
from xml_pipeline.organism.document import Document
from xml_pipeline.organism.doubts import responses_not_taken
from xml_pipeline.organism.imports import fresh_imports
from xml_pipeline.organism.model import Organism, Price
from xml_pipeline.organism.resolve import Resolution
from xml_pipeline.organism.sections import ListenerSection, Sections, read_sections

DEFAULT_LABEL = "organism.yaml"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An organism, and what about it is likely not meant."""

    organism: Organism
    warnings: tuple[Fault, ...] = ()


def load_organism(path: Path) -> Organism:
    """Read the file and import what it names; raise InvalidOrganism with every fault as `file:line`."""
    return load_with_warnings(path).organism


def load_with_warnings(path: Path) -> Loaded:
    """Load, and tell what is likely not meant beside; raise InvalidOrganism."""
    loaded = _parse(_read(path), path.resolve().parent, str(path))
    return replace(loaded, organism=replace(loaded.organism, file=path.resolve()))


def parse_organism(text: str, folder: Path, *, label: str = DEFAULT_LABEL) -> Organism:
    """Make the organism that `text` describes, with modules from `folder`, freshly imported; raise InvalidOrganism."""
    return _parse(text, folder, label).organism


def load_prices(path: Path) -> tuple[Price, ...]:
    """The prices in a file; nothing that it names is imported. Raises InvalidOrganism with every fault."""
    return parse_prices(_read(path), label=str(path))


def parse_prices(text: str, *, label: str = DEFAULT_LABEL) -> tuple[Price, ...]:
    """The prices in the text of a file, as `load_prices` reads them."""
    document = Document(text, label)
    sections = read_sections(document)
    if document.faults:
        raise InvalidOrganism(sorted(document.faults, key=_line))
    return sections.prices


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = "there is no such file; 'organism init DIR' writes a first one"
        raise InvalidOrganism([Fault(str(path), message)]) from None
    except UnicodeDecodeError:
        raise InvalidOrganism([Fault(str(path), "the file is not UTF-8")]) from None
    except OSError as error:
        raise InvalidOrganism([Fault(str(path), f"the file cannot be read: {error.strerror}")]) from error


def _parse(text: str, folder: Path, label: str) -> Loaded:
    document = Document(text, label)
    sections = read_sections(document)
    _check_names(document, sections.listeners)
    names = frozenset(section.name for section in sections.listeners if section.name)
    with fresh_imports(folder) as resolver:
        resolution = Resolution(document, resolver, names)
        found = [resolution.listener(section) for section in sections.listeners]
        _check_script(resolution, sections)
    listeners = {listener.name: listener for listener in found if listener is not None}
    if document.faults:
        raise InvalidOrganism(sorted(document.faults, key=_line))
    warnings = (
        *resolution.warnings,
        *responses_not_taken(document, sections.listeners, listeners, resolution.accepted),
    )
    organism = Organism(
        listeners=listeners,
        llm=sections.llm,
        prices=sections.prices,
        budgets=sections.budgets,
        text=text,
        folder=folder,
        **sections.organism,
    )
    return Loaded(organism, tuple(sorted(warnings, key=_line)))


def _check_names(document: Document, sections: Iterable[ListenerSection]) -> None:
    """Names must differ by more than case: root tags are lower case."""
    seen: dict[str, str] = {}
    for section in sections:
        if not section.name:
            continue
        known = seen.setdefault(section.name.lower(), section.name)
        if known == section.name and document.place(section.node) != _first(document, sections, section.name):
            document.fault(section.node, f"there are two listeners {section.name!r}")
        elif known != section.name:
            document.fault(section.node, f"the names {section.name!r} and {known!r} differ only in case")


def _first(document: Document, sections: Iterable[ListenerSection], name: str) -> str:
    return next(document.place(section.node) for section in sections if section.name == name)


def _check_script(resolution: Resolution, sections: Sections) -> None:
    if sections.script is None:
        return
    script = resolution.find(sections.script, "script")
    if script is not None and not callable(script):
        resolution.document.fault(sections.script.node, f"script {sections.script.name!r} is not callable")


def _line(fault: Fault) -> int:
    return int(fault.path.rpartition(":")[2])
