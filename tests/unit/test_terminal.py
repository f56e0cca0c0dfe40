"""What the command line reads and shows."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console, RenderableType

from xml_pipeline.errors import InvalidInput
from xml_pipeline.terminal import views
from xml_pipeline.terminal.arguments import payload_of
from xml_pipeline.terminal.new_organism import first_steps, write_organism

ROOT = Path(__file__).parents[2]


def _shown(view: RenderableType, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        (["name=Dan"], None, {"name": "Dan"}),
        (["name=a=b", "empty="], None, {"name": "a=b", "empty": ""}),
        (["count:=3", 'tags:=["a"]'], None, {"count": 3, "tags": ["a"]}),
        (["name=Dan"], '{"name": "Eve", "deep": {"er": 1}}', {"name": "Dan", "deep": {"er": 1}}),
        ([], None, {}),
    ],
)
def test_payloads(fields: list[str], given: str | None, expected: dict[str, Any]) -> None:
    assert payload_of(fields, given) == expected


def test_a_payload_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"name": "Dan"}')
    assert payload_of([], f"@{tmp_path / 'payload.json'}") == {"name": "Dan"}


@pytest.mark.parametrize(
    ("fields", "given"),
    [(["name"], None), (["=x"], None), ([":=1"], None), (["n:=x"], None), ([], "[1]"), ([], "{"), ([], "@/no/file")],
)
def test_what_is_no_payload_is_refused(fields: list[str], given: str | None) -> None:
    with pytest.raises(InvalidInput):
        payload_of(fields, given)


@pytest.mark.parametrize(
    ("passed", "words"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago"), (-5, "0 s ago")],
)
def test_times_in_words(passed: int, words: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert views.ago((now - timedelta(seconds=passed)).isoformat(), now=now) == words
    assert views.ago(None) == ""


def _reply(**payload: object) -> dict[str, Any]:
    return {"payloadType": "greeter.greeted", "payload": payload}


def test_an_answer_with_one_text_is_that_text() -> None:
    assert _shown(views.answer_view(_reply(text="HELLO [bold]DAN[/bold]"))) == "HELLO [bold]DAN[/bold]\n"


def test_an_answer_with_fields_shows_each() -> None:
    shown = _shown(views.answer_view(_reply(title="A", pages=3, tags=["x"])))
    assert shown.split() == ["title", "A", "pages", "3", "tags", '["x"]']


def test_nothing_yet_is_said() -> None:
    assert _shown(views.threads_view({"threads": [], "total": 0})) == "no threads\n"


def test_a_part_of_a_list_says_so() -> None:
    thread = {"id": "t", "status": "active", "messageCount": 1, "participants": ["api", "a"], "lastActivity": None}
    answer = {"threads": [thread], "count": 1, "total": 30, "offset": 10, "limit": 1}
    assert "11 to 11 of 30" in _shown(views.threads_view(answer))


def test_a_new_organism_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My First_Organism"
    assert [path.name for path in write_organism(folder)] == ["organism.yaml", "hello.py"]
    assert "name: my-first-organism," in (folder / "organism.yaml").read_text()
    with pytest.raises(InvalidInput, match="is there already"):
        write_organism(folder)


def test_a_name_begins_with_a_letter(tmp_path: Path) -> None:
    write_organism(tmp_path / "7")
    assert "name: organism-7," in (tmp_path / "7" / "organism.yaml").read_text()


@pytest.mark.parametrize("name", ["organism.yaml", "hello.py"])
def test_a_new_organism_is_the_first_example(name: str, tmp_path: Path) -> None:
    write_organism(tmp_path / "hello-world")
    example = ROOT / "examples" / "hello-world" / name
    assert (tmp_path / "hello-world" / name).read_text() == example.read_text()


def test_an_id_can_be_copied_from_a_narrow_terminal() -> None:
    id_ = str(UUID(int=7))
    thread = {
        "id": id_,
        "status": "completed",
        "messageCount": 1234,
        "lastActivity": None,
        "participants": ["api", "greeter", "shouter", "somebody-with-a-long-name"],
    }
    shown = _shown(views.threads_view({"threads": [thread], "count": 1, "total": 1}), width=70)
    assert id_ in shown


def test_the_first_steps_can_be_typed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "organism"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "init"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert first_steps(Path("my organism"))[0] == f"cd 'my organism'\n{program} up"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert first_steps(Path("mine")) == ("cd mine\norganism up", "organism inject greeter name=Dan --wait 30")
