"""How a process ends over an error: what a person is told, and the exit status."""

from __future__ import annotations

from xml_pipeline.errors import InvalidInput, InvalidOrganism, XmlPipelineError

EXIT_UNAVAILABLE = 1
EXIT_INVALID = 2


def explain(error: XmlPipelineError) -> list[str]:
    """A line for each fault of an organism.yaml, else one line."""
    if isinstance(error, InvalidOrganism):
        return [f"{fault.path}: {fault.message}" for fault in error.faults]
    return [" ".join(str(error).split())]


def exit_status(error: XmlPipelineError) -> int:
    """2 for what the caller got wrong, else 1."""
    return EXIT_INVALID if isinstance(error, InvalidInput) else EXIT_UNAVAILABLE
