"""What is wrong with a payload."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xml_pipeline.errors import Fault, InvalidPayload


def faults_of(act: Callable[[], object]) -> list[Fault]:
    """The faults that it tells when it refuses."""
    with pytest.raises(InvalidPayload) as caught:
        act()
    return list(caught.value.faults)
