"""What a migration may do while services work, read from its source; what is refused has them wait for too long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from xml_pipeline.storage.online import longest_name

_MODULES = {"__future__", "sqlalchemy", "sqlalchemy.dialects.postgresql"}
_IMPORTS = _MODULES | {"alembic.op", "xml_pipeline.storage.online"}
# Nobody waits for what is new, and views and functions are nothing but rows of the catalogue.
_FOR_NEW = {"create_table", "drop_table", "create_index", "execute"}
_HARMLESS = re.compile(r"(create( or replace)? (view|function)|drop (view|function)|comment on) ")
_LONG = re.compile(
    r"alter column \w+ (set data )?type|set not null|validate constraint|create (unique )?index(?! .* on only )"
    r"|add (constraint|check|foreign key|unique|primary key)(?!.* not valid$)|cluster |vacuum full|lock table|reindex"
)

# In a column's definition: rows are read or written anew under its lock.
_SLOW_COLUMN = re.compile(r"\b(references|unique|primary key|check|generated|(big|small)?serial)\b|\bdefault .*\(")
_PARTITIONED = "usage_events"


def faults(source: str) -> list[str]:
    """Each with its line; empty where the migration is one that services need not be stopped for."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    of_op = [call for call in calls if _module(call) == "op"]
    of_online = [call for call in calls if _module(call) == "online"]
    found = [*_imports(tree), *_strays(tree, calls)]
    if of_op and of_online:
        found.append((of_op[0], "steps of `online` and others: two migrations, since the first is not one transaction"))
    new = {_text(call.args[0]) for call in of_op if _name(call) == "create_table"}
    found += [(call, fault) for call in of_op if (fault := _fault_of_op(call, new))]
    found += [(call, fault) for call in of_online if (fault := _fault_of_online(call))]
    return [f"{getattr(node, 'lineno', 0)}: {fault}" for node, fault in found]


def _imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node, f"imports {name}") for name in names if not _known(name))


def _known(name: str) -> bool:
    return name in _IMPORTS or name.rpartition(".")[0] in _MODULES


def _strays(tree: ast.AST, calls: list[ast.Call]) -> Iterator[tuple[ast.AST, str]]:
    """Any other use of `op` or `online` would be a way around."""
    called = {id(call.func.value) for call in calls if isinstance(call.func, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in {"op", "online"} and id(node) not in called:
            yield node, f"{node.id} is not called"


def _fault_of_op(call: ast.Call, new: set[str | None]) -> str | None:
    name = _name(call)
    if name not in _FOR_NEW:
        return f"op.{name}: is there a step of `online` for it?"
    if name == "create_index" and _text(call.args[1]) not in new:
        return "an index of a table that is there: online.create_index"
    if name == "execute" and not _HARMLESS.match(_text(call.args[0]) or ""):
        return "op.execute: online.briefly, if it is done in a moment"
    return None


def _fault_of_online(call: ast.Call) -> str | None:
    name, first = _name(call), _text(call.args[0])
    if name == "briefly" and _LONG.search(first or "lock table"):
        return "it takes long under its lock"
    if name == "add_column" and _SLOW_COLUMN.search(_text(call.args[1]) or "unique"):
        return "it takes long under its lock: a column with a constant, then a check, a key or a backfill of its own"
    if name == "add_foreign_key" and first == _PARTITIONED:
        return "PostgreSQL before 18 refuses foreign keys that are not valid on tables with partitions"
    if name == "create_index" and len(first or "") > longest_name(partitioned=_text(call.args[1]) == _PARTITIONED):
        return "the name is too long"
    return None


def _module(call: ast.Call) -> str | None:
    func = call.func
    return func.value.id if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) else None


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _text(node: ast.expr) -> str | None:
    """A literal in lower case and on one line; None for what is put together."""
    whole = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return " ".join(str(ast.literal_eval(node)).lower().split()) if whole else None
