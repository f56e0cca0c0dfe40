"""From a pydantic model or a dataclass to its shape, by way of the core schema that pydantic makes of either."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from xml_pipeline.errors import Fault, UnsupportedPayload
from xml_pipeline.payload.scalars import Unexpressible, scalar_of
from xml_pipeline.payload.shapes import MISSING, Many, Mapped, Member, Nullable, Record, Scalar, Shape, Value

Schema = Mapping[str, Any]

# Kept on the class: its annotations are looked up in its module, which a reload of an organism replaces by another.
_KEPT = "__xml_pipeline_description__"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_COLLECTIONS: dict[str, tuple[Any, bool]] = {"list": (list, True), "set": (set, False), "frozenset": (frozenset, False)}
_WRAPPERS = ("function-after", "function-before", "function-wrap")
_HINTS = {
    "any": "Any says nothing about its content; name a type",
    "union": "a union of several types cannot be told apart; use one class, with optional fields",
    "tagged-union": "a union of several types cannot be told apart; use one class, with optional fields",
    "none": "a field that is always None carries nothing",
    "typed-dict": "a TypedDict is no payload; use a dataclass",
    "call": "a NamedTuple is no payload; use a dataclass",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """A payload class: its shape, its validator, and whether the class refuses more than its XSD can."""

    record: Record
    adapter: TypeAdapter[Any]
    model_says_more: bool


def describe(cls: type[Any]) -> Description:
    """Describe a payload class; raise UnsupportedPayload with a fault for each field that XML cannot express."""
    if not is_payload_class(cls):
        raise UnsupportedPayload([Fault(class_name(cls), "a payload class is a pydantic model or a dataclass")])
    known: Description | None = cls.__dict__.get(_KEPT)
    if known is None:
        known = _describe(cls)
        setattr(cls, _KEPT, known)
    return known


def _describe(cls: type[Any]) -> Description:
    try:
        adapter = TypeAdapter(cls)
        if not adapter.pydantic_complete:
            adapter.rebuild()
        schema = adapter.core_schema
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError, NameError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UnsupportedPayload([Fault(class_name(cls), reason)]) from error
    walk = _Walk(schema)
    shape = walk.shape(schema, {}, class_name(cls))
    if walk.faults or not isinstance(shape, Record):
        raise UnsupportedPayload(walk.faults or [Fault(class_name(cls), "it has no fields of its own")])
    return Description(shape, adapter, walk.model_says_more)


def is_payload_class(cls: object) -> bool:
    """Tell whether `cls` is a pydantic model or a dataclass."""
    return inspect.isclass(cls) and (issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls))


def class_name(cls: type[Any]) -> str:
    """Name a class as `module.Class`."""
    return f"{cls.__module__}.{cls.__qualname__}"


class _Walk:
    """One walk over a core schema; records are made once for each class, so a class may hold itself."""

    def __init__(self, schema: Schema) -> None:
        self.faults: list[Fault] = []
        self.model_says_more = False
        self._definitions: dict[str, Schema] = {}
        self._records: dict[int, Record] = {}
        self._names: set[str] = set()
        if schema["type"] == "definitions":
            self._definitions = {definition["ref"]: definition for definition in schema["definitions"]}

    def shape(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        try:
            return self._shape(schema, config, path)
        except Unexpressible as error:
            self.faults.append(Fault(path, str(error)))
            return None

    def _shape(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        kind = schema["type"]
        if kind == "definitions":
            return self.shape(schema["schema"], config, path)
        if kind == "definition-ref":
            return self.shape(self._definitions[schema["schema_ref"]], config, path)
        if kind in _WRAPPERS:
            self.model_says_more = True
            return self.shape(schema["schema"], config, path)
        if kind in ("model", "dataclass"):
            return self._record(schema, path)
        scalar = scalar_of(schema, config)
        if scalar is not None:
            self.model_says_more |= _more_than_xsd(schema, config, scalar)
            return _nullable_literal(schema, scalar)
        return self._compound(schema, config, path)

    def _compound(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        kind = schema["type"]
        if kind == "nullable":
            inner = self.shape(schema["schema"], config, path)
            return None if inner is None else Nullable(inner)
        if kind == "default":
            return self.shape(schema["schema"], config, path)
        if kind in _COLLECTIONS:
            self.model_says_more |= kind != "list" and bool(schema.get("min_length"))
            return self._many(schema, schema.get("items_schema"), *_COLLECTIONS[kind], config, path)
        if kind == "tuple":
            return self._tuple(schema, config, path)
        if kind == "dict":
            return self._mapped(schema, config, path)
        if kind == "json-or-python":
            return self._sequence(schema, config, path)
        raise Unexpressible(_HINTS.get(kind, f"a type of this kind ({kind}) cannot be carried"))

    def _many(
        self, schema: Schema, items: Schema | None, make: Value, ordered: bool, config: Schema, path: str
    ) -> Shape | None:
        if items is None:
            raise Unexpressible("say what it holds, like list[str]")
        item = self.shape(items, config, f"{path}[]")
        if item is None:
            return None
        return Many(item, make, schema.get("min_length") or 0, schema.get("max_length"), ordered)

    def _tuple(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        if schema.get("variadic_item_index") is None or len(schema["items_schema"]) != 1:
            raise Unexpressible("a tuple of fixed places cannot be carried; use a dataclass, or tuple[X, ...]")
        return self._many(schema, schema["items_schema"][0], tuple, True, config, path)

    def _sequence(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        """`Sequence[X]` is a list in JSON; whatever else differs between JSON and Python is no plain data."""
        plain = schema["json_schema"]
        if plain["type"] != "list":
            raise Unexpressible("a type that JSON and Python see differently cannot be carried")
        return self._many(plain, plain.get("items_schema"), list, True, config, path)

    def _mapped(self, schema: Schema, config: Schema, path: str) -> Shape | None:
        if schema.get("keys_schema") is None or schema.get("values_schema") is None:
            raise Unexpressible("say what it holds, like dict[str, int]")
        key = self.shape(schema["keys_schema"], config, f"{path}[key]")
        value = self.shape(schema["values_schema"], config, f"{path}[]")
        if key is None or value is None:
            return None
        if not isinstance(key, Scalar):
            raise Unexpressible("the key of a dict must be a plain value")
        return Mapped(key, value, schema.get("min_length") or 0, schema.get("max_length"))

    def _record(self, schema: Schema, path: str) -> Record:
        if id(schema) in self._records:
            return self._records[id(schema)]
        cls = schema["cls"]
        record = self._records[id(schema)] = Record(cls, self._type_name(cls), _class_doc(cls))
        config = schema.get("config") or {}
        if config.get("extra_fields_behavior") == "allow":
            raise Unexpressible("extra fields (extra='allow') have no place in a schema")
        if schema.get("root_model"):
            raise Unexpressible("a RootModel has no named fields; use a model with one field")
        self.model_says_more |= bool(schema.get("post_init")) or bool(schema.get("custom_init"))
        fields = _fields(schema["schema"], self)
        members = (self._member(name, field, config, f"{path}.{name}") for name, field in fields)
        record.members = tuple(member for member in members if member is not None)
        return record

    def _member(self, name: str, field: Schema, config: Schema, path: str) -> Member | None:
        if field.get("init_only"):
            self.faults.append(Fault(path, "an InitVar is no field that could be read back"))
            return None
        if field.get("init") is False:
            return None
        if not _NAME.fullmatch(name) or name.lower().startswith("xml"):
            self.faults.append(Fault(path, "the name cannot be the name of an element"))
            return None
        shape = self.shape(field["schema"], config, path)
        return None if shape is None else _make_member(name, field, shape)

    def _type_name(self, cls: type[Any]) -> str:
        base = re.sub(r"[^A-Za-z0-9_.\-]", "_", cls.__name__)
        name, number = base, 2
        while name in self._names:
            name, number = f"{base}{number}", number + 1
        self._names.add(name)
        return name


def _fields(schema: Schema, walk: _Walk) -> Iterable[tuple[str, Schema]]:
    """List the fields below the validators that stand around them."""
    while schema["type"] in _WRAPPERS:
        walk.model_says_more = True
        schema = schema["schema"]
    if schema["type"] == "model-fields":
        return list(schema["fields"].items())
    if schema["type"] == "dataclass-args":
        return [(field["name"], field) for field in schema["fields"]]
    raise Unexpressible("it has no named fields")


def _make_member(name: str, field: Schema, shape: Shape) -> Member:
    schema = field["schema"]
    while schema["type"] in _WRAPPERS:
        schema = schema["schema"]
    has_default = schema["type"] == "default"
    factory = schema.get("default_factory") if has_default and not schema.get("default_factory_takes_data") else None
    default = schema.get("default", MISSING) if has_default else MISSING
    if has_default and default is MISSING and factory is None:
        factory = _unknown_default
    said = (field.get("metadata") or {}).get("pydantic_js_updates") or {}
    alias = field.get("validation_alias")
    return Member(
        name=name,
        shape=shape,
        alias=alias if isinstance(alias, str) else None,
        default=default,
        default_factory=factory,
        doc=said.get("description"),
        examples=tuple(said.get("examples") or ()),
    )


def _unknown_default() -> object:
    return MISSING


def _nullable_literal(schema: Schema, scalar: Scalar) -> Shape:
    return Nullable(scalar) if schema["type"] == "literal" and None in schema["expected"] else scalar


def _more_than_xsd(schema: Schema, config: Schema, scalar: Scalar) -> bool:
    """Tell whether something of a scalar's constraints is left to the model."""
    kind = schema["type"]
    said = {name for name, _ in scalar.facets}
    if schema.get("multiple_of") is not None or kind in ("url", "multi-host-url"):
        return True
    if kind == "str":
        return schema.get("pattern") is not None or any(
            config.get(key) for key in ("str_to_lower", "str_to_upper", "str_strip_whitespace")
        )
    if kind == "decimal":
        return bool(said & {"totalDigits", "fractionDigits"})
    bounded = any(schema.get(key) is not None for key in ("ge", "gt", "le", "lt", "now_op"))
    return bounded and kind in ("datetime", "time", "timedelta", "date")


def _class_doc(cls: type[Any]) -> str | None:
    doc = cls.__dict__.get("__doc__")
    if not doc or doc.startswith(f"{cls.__name__}("):
        return None  # a dataclass without words of its own gets its signature
    return inspect.cleandoc(doc)
