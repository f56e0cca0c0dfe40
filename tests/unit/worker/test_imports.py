from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("sqlalchemy", "asyncpg", "fastapi", "uvicorn", "aio_pika", "aiormq", "alembic", "httpx", "prometheus_client")


@pytest.mark.parametrize("module", ["xml_pipeline.worker", "xml_pipeline.worker.child"])
def test_a_child_imports_no_more_than_it_needs(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
