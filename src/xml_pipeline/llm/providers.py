"""Which provider a configuration names."""

from __future__ import annotations

from xml_pipeline.llm.model import Provider
from xml_pipeline.organism.model import LlmConfig


def make_provider(config: LlmConfig) -> Provider:
    """The provider of `config`, for one event loop; close it with `aclose()`. Raises ValueError for an unknown one.

    A `script` is imported from the organism's folder, which has to be on `sys.path`.
    """
    match config.provider:
        case "scripted":
            from xml_pipeline.llm.scripted import ScriptedProvider, load_script

            return ScriptedProvider(load_script(config.script), latency=float(config.options.get("latency", 0)))
        case "openai":
            from xml_pipeline.llm.openai import OpenAiProvider

            return OpenAiProvider(config)
        case unknown:
            raise ValueError(f"unknown LLM provider: {unknown}; there are scripted and openai")
