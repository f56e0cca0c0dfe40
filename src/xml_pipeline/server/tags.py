"""Tags of threads, as requests give them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be printed in a line")
    return text


TagKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
TagValue = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=8)]
