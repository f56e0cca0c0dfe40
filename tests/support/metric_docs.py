"""docs/metrics.md, made from the catalogue: `python -m tests.support.metric_docs` writes it."""

from __future__ import annotations

from pathlib import Path

from xml_pipeline.metrics.catalogue import ALL, CATALOGUE, Metric

FILE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
MARK = "<!-- What follows is made by `python -m tests.support.metric_docs`. -->\n"
_TITLES = {
    ALL: "Of every service",
    ("router",): "Of routers",
    ("agent-worker",): "Of agent-workers",
    ("usage",): "Of usage services",
    ("gateway",): "Of gateways",
    ("router", "usage"): "Of routers and usage services",
}


def made() -> str:
    """The part of the file that is made."""
    rooms: dict[tuple[str, ...], list[Metric]] = {}
    for metric in CATALOGUE:
        rooms.setdefault(metric.services, []).append(metric)
    return "\n".join(_table(_TITLES[services], rooms[services]) for services in _TITLES)


def _table(title: str, metrics: list[Metric]) -> str:
    rows = "\n".join(map(_row, metrics))
    return f"## {title}\n\n| metric | type | labels | what |\n| --- | --- | --- | --- |\n{rows}\n"


def _row(metric: Metric) -> str:
    kind = f"{metric.kind}, shared" if metric.shared else str(metric.kind)
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {kind} | {labels} | {metric.help} |"


def main() -> None:
    """Write the made part of the file anew."""
    written = FILE.read_text().partition(MARK)[0]
    FILE.write_text(f"{written}{MARK}\n{made()}")


if __name__ == "__main__":
    main()
