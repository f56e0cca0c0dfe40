"""A YAML document whose every value knows its line. What is wrong is collected, so that all is told at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import yaml

from xml_pipeline.errors import Fault, InvalidOrganism
from xml_pipeline.organism.names import did_you_mean

Node: TypeAlias = yaml.Node
_MERGE = "<<"


class Document:
    """One parsed file: `root` is its mapping, `faults` is what was found wrong with it so far."""

    def __init__(self, text: str, label: str) -> None:
        """Parse; raise InvalidOrganism with the line if it is no YAML, or no mapping."""
        self.faults: list[Fault] = []
        self.label = label
        self._loader = _make_loader(text, label)
        try:
            root = self._loader.get_single_node()
        except yaml.YAMLError as error:
            raise InvalidOrganism([_yaml_fault(error, label)]) from error
        except RecursionError:
            raise InvalidOrganism([Fault(f"{label}:1", "it is nested too deep")]) from None
        if root is None:
            raise InvalidOrganism([Fault(f"{label}:1", "the file is empty")])
        self.root = root

    def fault(self, node: Node, message: str) -> None:
        """Note that something is wrong at `node`."""
        self.faults.append(Fault(self.place(node), message))

    def place(self, node: Node) -> str:
        """Say where `node` is, as `file:line`."""
        return f"{self.label}:{node.start_mark.line + 1}"

    def mapping(self, node: Node, what: str, known: Collection[str]) -> dict[str, Node]:
        """Read a mapping, and note keys that are unknown or there twice."""
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what} must be a mapping of {', '.join(known)}")
            return {}
        self._check_keys(node, what, known)
        return {str(key.value): value for key, value in self._merged(node) if str(key.value) in known}

    def sequence(self, node: Node, what: str) -> list[Node]:
        """Read a list."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.fault(node, f"{what} must be a list")
        return []

    def text(self, node: Node, what: str) -> str | None:
        """Read a text that is not blank."""
        value = self._scalar(node)
        if not isinstance(value, str):
            quote = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and value is not None else ""
            self.fault(node, f"{what} must be a text{quote}")
            return None
        if not value.strip():
            self.fault(node, f"{what} must not be blank")
            return None
        return value

    def texts(self, node: Node, what: str) -> list[tuple[str, Node]]:
        """Read a list of texts, or one text alone."""
        nodes = [node] if isinstance(node, yaml.ScalarNode) else self.sequence(node, what)
        read = ((self.text(item, what), item) for item in nodes)
        return [(text, item) for text, item in read if text is not None]

    def integer(self, node: Node, what: str, *, minimum: int, maximum: int = 2**31 - 1) -> int | None:
        """Read a whole number."""
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fault(node, f"{what} must be a whole number")
            return None
        if not minimum <= value <= maximum:
            bounds = f"at least {minimum}" if value < minimum else f"at most {maximum}"
            self.fault(node, f"{what} must be {bounds}")
            return None
        return value

    def number(self, node: Node, what: str, *, above: float | None = None, maximum: float = math.inf) -> float | None:
        """Read a finite number that is not negative, or that is greater than `above`."""
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fault(node, f"{what} must be a number")
            return None
        if value < 0 or (above is not None and value <= above):
            self.fault(node, f"{what} must be {'at least 0' if above is None else f'greater than {above:g}'}")
            return None
        if value > maximum:
            self.fault(node, f"{what} must be at most {maximum:g}")
            return None
        return float(value)

    def boolean(self, node: Node, what: str) -> bool | None:
        """Read true or false."""
        value = self._scalar(node)
        if isinstance(value, bool):
            return value
        self.fault(node, f"{what} must be true or false")
        return None

    def free(self, node: Node, what: str) -> Mapping[str, Any]:
        """Read a mapping whose keys are not ours."""
        try:
            value = self._loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.fault(node, f"{what} cannot be read: {error}")
            return {}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
        self.fault(node, f"{what} must be a mapping with texts as keys")
        return {}

    def _scalar(self, node: Node) -> object:
        if not isinstance(node, yaml.ScalarNode):
            return None
        try:
            value: object = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            return None
        return value

    def _check_keys(self, node: yaml.MappingNode, what: str, known: Collection[str]) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                self.fault(key, f"{name!r} is there twice")
            elif name not in known and name != _MERGE:
                self.fault(key, f"{what} has no key {name!r}{did_you_mean(name, known)}")
            seen.add(name)

    def _merged(self, node: yaml.MappingNode) -> list[tuple[Node, Node]]:
        """Give the pairs of a mapping after those that it merges in by `<<`, so that its own win."""
        copy = yaml.MappingNode(node.tag, list(node.value), node.start_mark, node.end_mark)
        try:
            self._loader.flatten_mapping(copy)
        except yaml.YAMLError as error:
            self.faults.append(_yaml_fault(error, self.label))
        return list(copy.value)


def _make_loader(text: str, label: str) -> yaml.SafeLoader:
    try:
        return yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise InvalidOrganism([Fault(f"{label}:{line}", "this is no YAML: it holds a control character")]) from error


def _yaml_fault(error: yaml.YAMLError, label: str) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n", 1)[0]
    return Fault(f"{label}:{mark.line + 1 if mark else 1}", f"this is no YAML: {said}")
