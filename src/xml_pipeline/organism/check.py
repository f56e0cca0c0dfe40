"""What `organism check` tells."""

from __future__ import annotations

from pathlib import Path

from xml_pipeline.errors import Fault, InvalidOrganism
from xml_pipeline.organism.load import load_with_warnings

WARNING = "warning: "


def check(path: Path) -> list[Fault]:
    """List every fault of an organism.yaml; where it has none, its warnings, which begin with `warning: `."""
    try:
        loaded = load_with_warnings(path)
    except InvalidOrganism as error:
        return list(error.faults)
    return [Fault(fault.path, WARNING + fault.message) for fault in loaded.warnings]


def is_warning(fault: Fault) -> bool:
    """Tell a warning from a fault."""
    return fault.message.startswith(WARNING)
