"""Every fault of an organism.yaml is told with its line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.organism.folders import MODULE, YAML, faults, write
from xml_pipeline.errors import Fault, InvalidOrganism
from xml_pipeline.organism.check import check, is_warning
from xml_pipeline.organism.load import load_organism, parse_organism


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("{name: tested}", "{name: a b}", 1, "must begin with a letter or digit"),
        ("{name: tested}", "{name: amq.x}", 1, "the broker's own"),
        ("{name: tested}", "{name: " + "x" * 65 + "}", 1, "longer than 64"),
        ("{name: tested}", "{}", 1, "organism has no 'name'"),
        ("{name: tested}", "tested", 1, "must be a mapping"),
        ("{name: tested}", "{name: tested, prot: 1}", 1, "did you mean 'port'?"),
        ("{name: tested}", "{name: tested, name: other}", 1, "'name' is there twice"),
        ("{name: tested}", "{name: tested, port: -1}", 1, "at least 0"),
        ("{name: tested}", "{name: tested, port: 65536}", 1, "at most 65535"),
        ("{name: tested}", "{name: tested, port: '80'}", 1, "must be a whole number"),
        ("{name: tested}", "{name: tested, port: true}", 1, "must be a whole number"),
        ("{name: tested}", "{name: tested, thread_scheduling: random}", 1, "breadth-first, depth-first"),
        ("{name: tested}", "{name: tested, limits: {max_hops: 0}}", 1, "at least 1"),
        ("{name: tested}", "{name: tested, limits: {max_backlog: 0}}", 1, "max_backlog must be at least 1"),
        ("{name: tested}", "{name: tested, limits: {max_backlog_per_thread: all}}", 1, "must be a whole number"),
        ("{name: tested}", "{name: tested, limits: {max_envelope_bytes: 8388609}}", 1, "at most 8388608"),
        ("{name: tested}", "{name: tested, limits: {max_backlogs: 1}}", 1, "did you mean 'max_backlog'?"),
        ("{name: tested}", "{name: tested}\nllm: {provider: magic}", 2, "scripted, openai"),
        ("{name: tested}", "{name: tested}\nllm: {api_key: x}", 2, "did you mean 'api_key_env'?"),
        ("{name: tested}", "{name: tested}\nllm: {timeout: .nan}", 2, "must be a number"),
        ("{name: tested}", "{name: tested}\nllm: {options: [1]}", 2, "must be a mapping"),
        ("{name: tested}", "{name: tested}\nllm: {script: mods.gone}", 2, "has no 'gone'"),
        ("{name: tested}", "{name: tested}\nprices: [{model: m, prompt: 1}]", 2, "the price has no 'completion'"),
        (
            "{name: tested}",
            "{name: tested}\nprices: [{model: m, prompt: 1, completion: 1, cache_read: -1}]",
            2,
            "cache_read must be at least 0",
        ),
        ("organism: {name: tested}", "", 2, "the section 'organism' is missing"),
        ("name: asker", "name: asker\n    max_backlog: 1.5", 4, "max_backlog must be a whole number"),
        ("name: asker", "name: api", 3, "reserved"),
        ("name: asker", "name: System", 3, "reserved"),
        ("name: asker", "name: 1asker", 3, "must begin with a letter"),
        ("name: asker", "name: no", 3, "put it in quotes"),
        ("name: asker", "name: ''", 3, "must not be blank"),
        ("name: asker", "name: " + "a" * 65, 3, "longer than 64"),
        ("- name: asker\n    payload", "- payload", 3, "the listener has no 'name'"),
        ("    handler: mods.handle\n", "", 3, "the listener has no 'handler'"),
        ("mods.Ask", "mods", 4, "module.Name"),
        ("mods.Ask", "mods.Ask()", 4, "module.Name"),
        ("mods.Ask", "gone.Ask", 4, "there is no module 'gone'"),
        ("mods.Ask", "mods.Gone", 4, "the module 'mods' has no 'Gone'"),
        ("mods.Ask", "dynamic.Ask", 4, "RuntimeError: no Ask"),
        ("mods.Ask", "mods.Ask.Gone", 4, "the class 'mods.Ask' has no 'Gone'"),
        ("mods.Ask", "mods.handle", 4, "no pydantic model and no dataclass"),
        ("mods.Ask", "mods.Hard", 4, "mods.Hard.a: Any says nothing"),
        ("mods.Ask", "mods.Undefined", 4, "Nowhere"),
        ("mods.Ask", "mods.Answer2", 5, "have one name"),
        ("mods.Ask", "failing.Ask", 4, "(failing.py:2): ZeroDivisionError: division by zero"),
        ("mods.Ask", "leaving.Ask", 4, "SystemExit: 3"),
        ("mods.Ask", "lacking.Ask", 4, "imports 'not_there', which is not there (lacking.py:1)"),
        ("mods.Ask", "wrong.Ask", 4, "is no Python: "),
        ("mods.Answer", "[mods.Answer, mods.handle]", 5, "no pydantic model and no dataclass"),
        ("mods.Answer", "{}", 5, "must be a list"),
        ("mods.handle", "mods.sync", 6, "is not async"),
        ("mods.handle", "mods.Ask", 6, "is no function"),
        ("mods.handle", "mods.NUMBER", 6, "is no function"),
        ("mods.handle", "mods.lonely", 6, "must take two arguments"),
        ("mods.handle", "mods.other", 6, "does not take its payload class mods.Ask"),
        ("mods.handle", "mods.handle\n    peers: [askr]", 7, "did you mean 'asker'?"),
        ("mods.handle", "mods.handle\n    peers: [api]", 7, "cannot be a peer"),
        ("mods.handle", "mods.handle\n    peers: [asker, asker]", 7, "is there twice"),
        ("mods.handle", "mods.handle\n    agent: 1", 7, "must be true or false"),
        ("mods.handle", "mods.handle\n    timeout: 0", 7, "greater than 0"),
        ("mods.handle", "mods.handle\n    timeout: .inf", 7, "must be a number"),
        ("mods.handle", "mods.handle\n    retry: {attempts: 0}", 7, "at least 1"),
        ("mods.handle", "mods.handle\n    retry: {backoff: -1}", 7, "at least 0"),
        ("mods.handle", "mods.handle\n    retry: {jitter: 1.5}", 7, "at most 1"),
        ("mods.handle", "mods.handle\n    retry: {on: [error, crash]}", 7, "must be one of error, timeout, lost"),
        ("mods.handle", "mods.handle\n    windw: 1", 7, "did you mean 'window'?"),
        (
            "mods.handle",
            "mods.handle\n  - {name: asker, payload_class: mods.Ask, handler: mods.handle}",
            7,
            "two listeners",
        ),
        (
            "mods.handle",
            "mods.handle\n  - {name: ASKER, payload_class: mods.Ask, handler: mods.handle}",
            7,
            "only in case",
        ),
        ("mods.handle", "mods.handle\n  - text", 7, "a listener must be a mapping"),
        ("mods.handle", "mods.handle\nextra: 1", 7, "the file has no key 'extra'"),
        ("mods.handle", "mods.handle\n  bad indent", 8, "this is no YAML"),
        ("mods.handle", "*nowhere", 6, "this is no YAML"),
        ("mods.handle", "!!python/name:os.system", 6, "must be a text"),
        ("mods.handle", "\x00", 6, "this is no YAML"),
    ],
)
def test_one_fault(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    more = """
class Hard(BaseModel):
    a: Any
@dataclass
class Undefined:
    a: Nowhere
class Answer2(BaseModel): ...
Answer2.__name__ = "Answer"
NUMBER = 5
def sync(payload, metadata): ...
async def lonely(payload): ...
async def other(payload: Answer, metadata): ...
"""
    assert old in YAML
    path = write(
        tmp_path,
        YAML.replace(old, new, 1),
        mods=MODULE + more,
        failing="x = 1\nx / 0\n",
        leaving="import sys; sys.exit(3)",
        lacking="import not_there",
        wrong="def (",
        dynamic="def __getattr__(name): raise RuntimeError(f'no {name}')",
    )
    with faults() as found:
        load_organism(path)
    assert any(at == line and said in message for at, message in found), found


def test_all_at_once_in_order(tmp_path: Path) -> None:
    yaml = """\
    organism: {name: a b, port: x}
    listeners:
      - name: api
        payload_class: mods.Gone
        handler: mods.handle
        peers: [nobody]
      - {name: two, payload_class: gone.A, handler: gone.b, response_class: gone.C}
    """
    with faults() as found:
        load_organism(write(tmp_path, yaml))
    assert [line for line, _ in found] == [1, 1, 3, 4, 6, 7, 7, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "nested too deep"),
        ("", "empty"),
        ("# nothing", "empty"),
        ("[]", "mapping"),
        ("text", "mapping"),
        ("a: 1\n---\nb: 1", "no YAML"),
    ],
)
def test_files_that_are_no_mapping(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidOrganism, match=said):
        parse_organism(text, tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidOrganism, match="no such file"):
        load_organism(tmp_path / "gone.yaml")
    with pytest.raises(InvalidOrganism, match="cannot be read"):
        load_organism(tmp_path)
    (tmp_path / "organism.yaml").write_bytes(b"organism: {name: \xff}")
    with pytest.raises(InvalidOrganism, match="not UTF-8"):
        load_organism(tmp_path / "organism.yaml")


def test_aliases_and_merges_are_yaml_too(tmp_path: Path) -> None:
    yaml = """\
    organism: {name: tested}
    listeners:
      - &first {name: one, payload_class: mods.Ask, handler: mods.handle, retry: &retry {attempts: 2}}
      - {<<: *first, name: two, retry: *retry}
    """
    listeners = load_organism(write(tmp_path, yaml)).listeners
    assert [(name, one.retry.attempts) for name, one in listeners.items()] == [("one", 2), ("two", 2)]


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    for text in ("&a [*a]", "&a {listeners: *a, organism: *a}", "organism: &a {limits: *a}\nlisteners: &b [*b]"):
        with pytest.raises(InvalidOrganism):
            parse_organism(text, tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_text_gives_faults_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    """Lines of a good file, shuffled, cut, doubled and spoilt."""
    lines = data.draw(st.lists(st.sampled_from(YAML.splitlines()) | st.text(max_size=20), max_size=10))
    write(tmp_path)
    found: tuple[Fault, ...] = ()
    try:
        parse_organism("\n".join(lines), tmp_path)
    except InvalidOrganism as error:
        found = error.faults
    assert all(fault.path.startswith("organism.yaml:") and fault.message for fault in found)


TWO = """\
organism: {name: tested}
listeners:
  - {name: asker, payload_class: mods.Ask, handler: mods.handle, peers: [tool]}
  - {name: tool, payload_class: mods.Ask, response_class: [mods.Answer, mods.Outer.Inner], handler: mods.handle}
"""


def test_check_tells_faults_and_warnings(tmp_path: Path) -> None:
    assert check(write(tmp_path)) == []
    [warning] = check(write(tmp_path, TWO))
    assert is_warning(warning)
    assert warning.path.endswith("organism.yaml:3")
    assert "'asker' does not take Inner" in warning.message
    [fault] = check(write(tmp_path, YAML.replace("mods.Ask", "mods.Gone")))
    assert not is_warning(fault)


def test_pythons_own_system_error_is_a_warning(tmp_path: Path) -> None:
    builtin = MODULE.replace(", SystemError", "") + "async def handle(payload: Ask | SystemError, metadata): ..."
    [warning] = check(write(tmp_path, mods=builtin))
    assert "xml_pipeline.worker" in warning.message
