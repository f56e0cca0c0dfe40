"""What `--management` names is something else than RabbitMQ's management plugin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.least_rights import run_organism
from xml_pipeline.doctor.examination import Patient, examine
from xml_pipeline.doctor.model import State
from xml_pipeline.errors import InvalidInput, Refused
from xml_pipeline.message_bus.management import import_definitions, vhost_of

GONE = "amqp://guest:guest@127.0.0.1:1/"
PAGE = "<html>"


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """The address of a server that answers everything with this."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://guest:guest@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, ""), (200, PAGE), (200, "{}"), (200, '["a"]'), (200, '[{"id": 1}]'), (302, "")],
)
async def test_the_doctor_tells_the_rest_all_the_same(status: int, body: str) -> None:
    with answering(status, body) as address:
        findings = await examine(Patient(amqp_url=GONE, management_url=address, organism="o"))
    found = {finding.check: finding for finding in findings}
    assert found["broker-management"].state is State.FAILED
    assert "is no management plugin" in found["broker-management"].said
    assert {"broker", "database", "prices"} < set(found)


@pytest.mark.parametrize(("status", "body"), [(302, ""), (404, ""), (200, PAGE)])
def test_users_that_were_not_made_are_not_said_to_be(status: int, body: str) -> None:
    with answering(status, body) as address, pytest.raises(Refused, match="is no management plugin"):
        import_definitions(address, "{}")


def test_a_broker_that_cannot_be_read() -> None:
    with pytest.raises(InvalidInput, match="ORGANISM_AMQP_URL"):
        vhost_of("amqp://guest@[bad/")


@pytest.mark.parametrize("option", ["--management", "--listener"])
def test_the_doctor_does_not_ignore_it(option: str) -> None:
    urls = {"ORGANISM_AMQP_URL": "", "ORGANISM_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    done = run_organism("doctor", option, "http://127.0.0.1:1", environment=urls)
    assert done.returncode == 2
    assert f"{option} " in done.stderr
    assert "ORGANISM_AMQP_URL" in done.stderr
