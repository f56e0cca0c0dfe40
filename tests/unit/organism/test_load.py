"""An organism.yaml becomes an organism with its classes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from tests.unit.organism.folders import MODULE, YAML, write
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.organism.load import load_organism, parse_organism
from xml_pipeline.organism.model import Limits, LlmConfig, Price, Retry

EVERYTHING = """\
organism:
  name: all.of-it_1
  port: 9000
  max_tokens_per_thread: 5_000
  thread_scheduling: depth-first
  max_concurrent_pipelines: 3
  max_concurrent_handlers: 4
  limits:
    {max_hops: 5, max_messages_per_thread: 6, max_outputs_per_turn: 7, max_envelope_bytes: 8192,
     max_backlog: 9, max_backlog_per_listener: 10, max_backlog_per_thread: 11}
llm:
  provider: scripted
  model: scripted-1
  base_url: http://127.0.0.1:1
  api_key_env: SOME_KEY
  timeout: 1.5
  max_completion_tokens: 10
  script: mods.script
  options: {latency: 0.1, nested: {a: [1, 2]}}
prices:
  - {model: scripted-1, prompt: 3, completion: 15.0}
  - {model: m, prompt: 1, completion: 2, cache_read: 0.1, cache_write: 0, audio_completion: 9}
listeners:
  - name: asker
    payload_class: mods.Ask
    response_class: [mods.Answer, mods.Outer.Inner]
    handler: mods.handle
    description: Asks
    agent: true
    peers: [asker, Tool-2.x]
    prompt: Be kind.
    timeout: 5
    retry: {attempts: 1, backoff: 0, max_backoff: 2, jitter: 1, on: [lost, error, lost]}
    window: 9
    model: other-model
    max_backlog: 12
  - name: Tool-2.x
    payload_class: mods.Outer.Inner
    handler: mods.tool
"""
MORE = """
def script(prompt): ...
async def tool(payload, metadata): ...
"""


def test_all_keys(tmp_path: Path) -> None:
    path = write(tmp_path, EVERYTHING, mods=MODULE + MORE)
    organism = load_organism(path)
    assert (organism.name, organism.port, organism.max_tokens_per_thread) == ("all.of-it_1", 9000, 5000)
    assert organism.thread_scheduling == "depth-first"
    assert (organism.max_concurrent_pipelines, organism.max_concurrent_handlers) == (3, 4)
    assert organism.limits == Limits(5, 6, 7, 8192, 9, 10, 11)
    assert organism.llm == LlmConfig(
        "scripted", "scripted-1", "http://127.0.0.1:1", "SOME_KEY", 1.5, 10, "mods.script",
        {"latency": 0.1, "nested": {"a": [1, 2]}},
    )  # fmt: skip
    assert organism.prices == (
        Price("scripted-1", 3.0, 15.0),
        Price("m", 1.0, 2.0, cache_read=0.1, cache_write=0.0, audio_completion=9.0),
    )
    assert (organism.text, organism.folder, organism.file) == (EVERYTHING, tmp_path, path)
    asker, tool = organism.listeners.values()
    assert (asker.name, asker.description, asker.is_agent, asker.prompt) == ("asker", "Asks", True, "Be kind.")
    assert (asker.peers, asker.timeout, asker.window, asker.model) == (("asker", "Tool-2.x"), 5.0, 9, "other-model")
    assert asker.retry == Retry(1, 0.0, 2.0, 1.0, ("lost", "error"))
    assert (asker.max_backlog, tool.max_backlog) == (12, None)
    assert [response.root_tag for response in asker.responses] == ["asker.answer", "asker.inner"]
    assert (tool.root_tag, tool.is_agent, tool.responds) == ("tool-2.x.inner", False, False)
    assert f'name="{tool.root_tag}"' in (tool.schema or "")


def test_what_is_left_out(tmp_path: Path) -> None:
    organism = load_organism(write(tmp_path))
    [asker] = organism.listeners.values()
    assert (organism.port, organism.limits, organism.llm, organism.prices) == (8080, Limits(), LlmConfig(), ())
    assert (asker.description, asker.peers, asker.timeout, asker.retry) == ("", (), 30.0, Retry())
    assert asker.responds


def test_each_load_sees_what_is_on_the_disk(tmp_path: Path) -> None:
    """An edit of the same length within the same second, in a module that another one imports."""
    helper = "LIMIT = 1\n"
    source = MODULE + "\nfrom helper import LIMIT\nclass Sized(BaseModel):\n    text: str = str(LIMIT)\n"
    yaml = YAML.replace("mods.Answer", "mods.Sized")
    path = write(tmp_path, yaml, mods=source, helper=helper)
    first = load_organism(path)
    (tmp_path / "helper.py").write_text("LIMIT = 2\n")
    second = parse_organism(yaml, tmp_path)
    assert [one.listeners["asker"].responses[0].cls().text for one in (first, second)] == ["1", "2"]
    assert not (tmp_path / "__pycache__").exists()


def test_an_old_load_goes_on_working_after_a_new_one(tmp_path: Path) -> None:
    """Annotations are texts here, which are looked up in the module: it must be the one of their load."""
    path = write(tmp_path)
    first = load_organism(path)
    second = load_organism(path)
    for organism in (first, second):
        cls = organism.listeners["asker"].payload_class
        made = (
            Catalog(organism)
            .payload_type("asker")
            .from_xml(b"<asker.ask><text>x</text><about><depth>1</depth></about></asker.ask>")
        )
        assert type(made) is cls
        assert Catalog(organism).payload_type("asker").to_xml(made).startswith(b"<asker.ask>")


def test_two_folders_with_modules_of_one_name(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write(folder, mods=MODULE + f"\nPLACE = {folder.name!r}\n")
    loaded = [load_organism(folder / "organism.yaml") for folder in folders]
    places = [one.listeners["asker"].handler.__globals__["PLACE"] for one in loaded]
    assert places == ["a", "b"]


def test_the_search_path_is_as_before(tmp_path: Path) -> None:
    before, writes = list(sys.path), sys.dont_write_bytecode
    load_organism(write(tmp_path))
    assert (sys.path, sys.dont_write_bytecode) == (before, writes)


def test_what_is_installed_is_not_imported_anew(tmp_path: Path) -> None:
    yaml = YAML.replace("mods.Answer", "xml_pipeline.worker.Huh")
    parts = sys.modules["xml_pipeline.worker"]
    for _ in range(2):
        organism = load_organism(write(tmp_path, yaml))
        assert organism.listeners["asker"].responses[0].cls is parts.Huh
    assert sys.modules["xml_pipeline.worker"] is parts


def test_packages(tmp_path: Path) -> None:
    package = tmp_path / "pack" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(MODULE)
    yaml = YAML.replace("mods.", "pack.deep.parts.")
    first, second = (load_organism(write(tmp_path, yaml)) for _ in range(2))
    assert first.listeners["asker"].payload_class is not second.listeners["asker"].payload_class


@pytest.mark.parametrize(
    ("handler", "errors", "huh"),
    [
        ("async def handle(payload, metadata): ...", True, True),
        ("async def handle(payload: Any, metadata): ...", True, True),
        ("async def handle(payload: object, metadata): ...", True, True),
        ("async def handle(payload: BaseModel, metadata): ...", True, True),
        ("async def handle(payload: Ask, metadata): ...", False, False),
        ("async def handle(payload: Ask | SystemError, metadata): ...", True, False),
        ("async def handle(payload: 'Ask | Huh', metadata): ...", False, True),
        ("from typing import *\nasync def handle(payload: Union[Ask, Optional[Huh]], metadata): ...", False, True),
        (
            "from typing import *\nasync def handle(payload: Annotated[Ask | SystemError, 1], metadata): ...",
            True,
            False,
        ),
        ("Both = Ask | Huh | SystemError\nasync def handle(payload: Both, metadata): ...", True, True),
        ("class H:\n    async def __call__(self, payload: Ask | Huh, metadata): ...\nhandle = H()", False, True),
        (
            "import functools\nasync def h(first, payload: Ask, metadata): ...\nhandle = functools.partial(h, 1)",
            False,
            False,
        ),
        ("class H:\n    async def run(self, payload: Ask | Huh, metadata): ...\nhandle = H().run", False, True),
        ("async def handle(payload: Nowhere, metadata): ...", True, True),
    ],
)
def test_what_a_handler_takes(tmp_path: Path, handler: str, errors: bool, huh: bool) -> None:
    asker = load_organism(write(tmp_path, mods=MODULE + "\n" + handler)).listeners["asker"]
    assert (asker.accepts_errors, asker.accepts_huh) == (errors, huh)


def test_many_threads_load_at_once(tmp_path: Path) -> None:
    path = write(tmp_path)
    loaded: list[str] = []
    threads = [threading.Thread(target=lambda: loaded.append(load_organism(path).name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert loaded == ["tested"] * 8


@pytest.mark.parametrize("example", ["hello-world", "research-team"])
def test_the_examples(example: str) -> None:
    folder = Path(__file__).parents[3] / "examples" / example
    assert load_organism(folder / "organism.yaml").name == example
