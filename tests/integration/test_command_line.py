"""The command line as its users run it: real processes, on an organism that `organism init` wrote."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.organism_up import Up, environment, organism


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("organism") / "my-organism"
    assert organism("init", str(folder)).returncode == 0
    with Up(folder / "organism.yaml") as up:
        up.wait_running()
        yield up


def _said(up: Up, *arguments: str) -> str:
    done = up.organism(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _json(up: Up, *arguments: str) -> Any:
    return json.loads(_said(up, *arguments, "--json"))


def test_inject_prints_the_answer(up: Up) -> None:
    assert _said(up, "inject", "greeter", "name=Dan", "--wait", "30").startswith("HELLO, DAN!")


def test_inject_takes_json_and_a_thread_and_a_key(up: Up) -> None:
    arguments = ("inject", "greeter", "--json-payload", '{"name": "Eve"}', "--key", "one-key")
    first = _json(up, *arguments)
    assert _json(up, *arguments) == first
    again = _json(up, "inject", "greeter", "name=Ann", "--thread", first["threadId"], "--wait", "30")
    assert again["threadId"] == first["threadId"]
    assert "ANN" in again["reply"]["payload"]["text"]


def test_what_is_shown_is_what_happened(up: Up) -> None:
    sent = _json(up, "inject", "greeter", "name=Zoe", "--wait", "30")
    thread = _json(up, "thread", sent["threadId"])
    assert [(message["from"], message["to"]) for message in thread["messages"]] == [
        ("api", "greeter"),
        ("greeter", "shouter"),
        ("shouter", "greeter"),
        ("greeter", "api"),
    ]
    assert thread["messages"][0]["id"] == sent["messageId"]
    assert sent["threadId"] in {found["id"] for found in _json(up, "threads")["threads"]}
    assert len(_json(up, "messages", "--agent", "shouter", "--limit", "2")["messages"]) == 2
    assert {agent["name"] for agent in _json(up, "agents")["agents"]} == {"greeter", "shouter"}
    assert _json(up, "usage")["usage"]["byAgent"][0]["agentId"] == "greeter"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["threads"], ["thread", "status", "completed", "greeter, shouter"]),
        (["messages"], ["greeter", "shouter", "text: HELLO"]),
        (["agents"], ["idle", "shouter", "Says it in capitals"]),
        (["usage"], ["by agent", "greeter", "by model", "scripted-1", "in all", "$"]),
    ],
)
def test_tables(up: Up, arguments: list[str], expected: list[str]) -> None:
    _said(up, "inject", "greeter", "name=Tab", "--wait", "30")
    shown = _said(up, *arguments)
    for word in expected:
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["inject", "nobody", "name=Dan"], "nobody"),
        (["inject", "greeter", "nme=Dan"], "name"),
        (["thread", "00000000-0000-0000-0000-000000000000"], "00000000"),
        (["threads", "--status", "lost"], "completed"),
    ],
)
def test_what_the_organism_refuses_is_told_without_a_traceback(up: Up, arguments: list[str], complaint: str) -> None:
    done = up.organism(*arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_tags_and_budgets(up: Up) -> None:
    sent = _json(up, "inject", "greeter", "name=Dan", "--wait", "30", "--tag", "team=blue")
    assert _json(up, "thread", sent["threadId"])["tags"] == {"team": "blue"}
    topped = _json(up, "top-up", sent["threadId"], "500", "--key", "one")
    assert topped == _json(up, "top-up", sent["threadId"], "500", "--key", "one")
    assert topped["topUps"] == 500
    said = _said(up, "top-up", sent["threadId"], "1000", "--key", "two")
    assert said.strip() == f"{topped['remaining'] + 1000:,} of 101,500 tokens are left"
    told = _json(up, "budgets")
    assert [(tag["key"], tag["value"]) for tag in told["tags"]] == [("team", "blue")]
    assert sent["threadId"] in [row["threadId"] for row in told["threads"]]
    shown = _said(up, "budgets")
    assert all(word in shown for word in ("the organism", "unlimited", "team=blue", "101,500"))
    wrong = up.organism("inject", "greeter", "name=Dan", "--tag", "team")
    assert (wrong.returncode, "is no tag" in wrong.stderr) == (2, True)


def test_check_and_schema(up: Up, tmp_path: Path) -> None:
    assert "is valid" in organism("check", str(up.file)).stdout
    shown = organism("schema", "greeter", "--file", str(up.file))
    assert "greeter.greeting" in shown.stdout
    unknown = organism("schema", "nobody", "--file", str(up.file))
    assert (unknown.returncode, "greeter, shouter" in unknown.stderr) == (1, True)


def test_check_names_every_fault_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "organism.yaml"
    file.write_text(
        "organism: {name: wrong, port: http}\n"
        "listeners:\n"
        "  - name: greeter\n"
        "    payload_class: nowhere.Greeting\n"
        "    handler: nowhere.greet\n"
        "    description: Greets\n"
        "    peers: [nobody]\n"
    )
    done = organism("check", str(file))
    assert done.returncode == 2
    lines = {line.split(": ")[0].rpartition(":")[2] for line in done.stderr.splitlines()}
    assert {"1", "4", "5", "7"} <= lines
    faults = json.loads(organism("check", str(file), "--json").stdout)
    assert faults["valid"] is False
    started = organism("up", "--file", str(file))
    assert (started.returncode, "Traceback" in started.stderr) == (2, False)


def test_check_tells_what_is_likely_not_meant(tmp_path: Path) -> None:
    organism("init", str(tmp_path))
    file, handlers = tmp_path / "organism.yaml", tmp_path / "hello.py"
    handlers.write_text(handlers.read_text().replace("payload: Greeting | Shouted", "payload: Greeting"))
    done = organism("check", str(file))
    assert (done.returncode, "is valid" in done.stdout) == (0, True)
    assert re.search(r"organism.yaml:\d+: warning: .*Shouted", done.stderr)
    told = json.loads(organism("check", str(file), "--json").stdout)
    assert (told["valid"], len(told["warnings"])) == (True, 1)


def test_no_organism_answers(tmp_path: Path) -> None:
    for arguments in (["threads"], ["inject", "greeter", "name=Dan"], ["usage", "--json"]):
        done = organism(*arguments, ORGANISM_URL="http://127.0.0.1:9")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "no organism answers at http://127.0.0.1:9: start one with 'organism up', or set ORGANISM_URL"
        ]


def test_a_port_in_use_is_one_clear_line(up: Up, tmp_path: Path) -> None:
    done = organism("up", "--file", str(up.file), "--port", str(up.port), "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{up.port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_in_use_is_one_clear_line(up: Up) -> None:
    done = organism("up", "--file", str(up.file), "--port", "1024", "--data", str(up.data))
    assert done.returncode == 1
    assert "another organism runs on" in done.stderr


def test_output_that_nobody_reads_to_its_end_is_no_error(up: Up) -> None:
    command = [sys.executable, "-m", "xml_pipeline", "schema", "greeter", "--file", str(up.file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait()


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    assert organism("init", str(tmp_path / "o")).returncode == 0
    with Up(tmp_path / "o" / "organism.yaml") as up:
        up.wait_running()
        os.kill(up.process.pid, signal.SIGINT)
        assert up.process.wait(30) == 0
        assert "stopped" in up.output()
