"""What a class says of itself, what it takes, and how it says no."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import pytest
from lxml import etree
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, HttpUrl, NaiveDatetime, RootModel, SecretStr
from typing_extensions import TypedDict

from tests.unit.payload.classes import (
    Aliased,
    Brittle,
    Color,
    Constrained,
    Documented,
    Picky,
    Point,
    Scalars,
    Shapes,
    Tree,
)
from tests.unit.payload.faults import faults_of
from xml_pipeline.envelope.parser import MAX_DEPTH, parse
from xml_pipeline.envelope.system import Huh, SystemError  # noqa: A004
from xml_pipeline.errors import Fault, UnsupportedPayload
from xml_pipeline.payload import PayloadType

GOOD: dict[str, Any] = {
    "code": "AB-1",
    "word": "four",
    "age": 0,
    "share": 1,
    "price": "1234.50",
    "tags": ["x"],
    "even": 2,
    "count": 1,
    "day": "2020-01-01",
    "data": "AAA=",
}
CONSTRAINED = PayloadType(Constrained, "a.constrained")


@pytest.mark.parametrize("cls", [Scalars, Shapes, Constrained, Point, Tree, Documented, Huh, SystemError, Aliased])
def test_the_example_fits_schema_and_class(cls: type[Any]) -> None:
    payload_type = PayloadType(cls, "a.example")
    example = payload_type.example_xml()
    assert example is not None
    schema = etree.XMLSchema(etree.fromstring(payload_type.xsd.encode()))
    assert schema.validate(etree.fromstring(example)), schema.error_log
    assert isinstance(payload_type.from_xml(example.encode()), cls)


@pytest.mark.parametrize("cls", [Picky, Brittle])
def test_no_example_where_none_can_be_guessed(cls: type[Any]) -> None:
    assert PayloadType(cls, "a.b").example_xml() is None


def test_docs_are_annotations() -> None:
    schema = etree.fromstring(PayloadType(Documented, "a.documented").xsd.encode())
    docs = [element.text for element in schema.iter("{http://www.w3.org/2001/XMLSchema}documentation")]
    assert docs == ["Says what <it> is & why.", "how many"]
    assert "documentation" not in PayloadType(Money, "a.money").xsd


@dataclass
class Money:
    amount: Decimal


def test_a_schema_as_it_is_shown() -> None:
    assert PayloadType(Point, "map.point").xsd == (
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">\n'
        '  <xs:element name="map.point" type="Point"/>\n'
        '  <xs:complexType name="Point">\n'
        "    <xs:annotation><xs:documentation>A place.</xs:documentation></xs:annotation>\n"
        "    <xs:all>\n"
        '      <xs:element name="x" type="xs:double"/>\n'
        '      <xs:element name="y" minOccurs="0" type="xs:double"/>\n'
        '      <xs:element name="label" minOccurs="0" nillable="true" type="xs:string"/>\n'
        "    </xs:all>\n"
        "  </xs:complexType>\n"
        "</xs:schema>\n"
    )


def test_what_a_model_may_write() -> None:
    data = b"<map.point>\n <label> a </label>\n <x> 1e3 </x><!-- any order, spaces around numbers --></map.point>"
    assert PayloadType(Point, "map.point").from_xml(parse(data)) == Point(1000.0, 0.0, " a ")


WRONG = [
    ("code", "AB-", "ab-1", "AB-1 "),
    ("word", "x", "xxxxx"),
    ("age", -1, 150),
    ("share", 0, 1.5),
    ("price", "1.234", "12345.00"),
    ("tags", [], ["a", "b", "c", "d"], [""]),
    ("even", 0, 3),
    ("count", 0),
    ("day", "2019-12-31"),
    ("data", "AAAAAAA="),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, *values in WRONG for value in values])
def test_constraints(name: str, value: object) -> None:
    found = faults_of(lambda: CONSTRAINED.from_json({**GOOD, name: value}))
    assert [fault.path.split("[")[0] for fault in found] == [name]
    good = CONSTRAINED.to_xml(CONSTRAINED.from_json(GOOD))
    texts = value if isinstance(value, list) else [value]
    content = "".join(f"<item>{text}</item>" for text in texts) if isinstance(value, list) else str(value)
    root = etree.fromstring(good)
    element = root.find(name)
    assert element is not None
    root.replace(element, etree.fromstring(f"<{name}>{content}</{name}>"))
    [fault, *_] = faults_of(lambda: CONSTRAINED.validate(etree.tostring(root)))
    assert fault.path.startswith(f"/a.constrained/{name}")
    assert fault.message


def test_what_schema_alone_refuses() -> None:
    """All but `multiple_of` is carried over to XSD."""
    schema = etree.XMLSchema(etree.fromstring(CONSTRAINED.xsd.encode()))
    good = CONSTRAINED.to_xml(CONSTRAINED.from_json(GOOD)).decode()
    for old, new in (
        ("<code>AB-1<", "<code>AB<"),
        ("<word>four<", "<word>fours<"),
        ("<age>0<", "<age>-1<"),
        ("<share>1.0<", "<share>0.0<"),
        ("<share>1.0<", "<share>NaN<"),
        ("<price>1234.50<", "<price>1234.505<"),
        ("<item>x</item>", ""),
        ("<item>x<", "<item><"),
        ("<count>1<", "<count>0<"),
        ("<day>2020-01-01<", "<day>2019-12-31<"),
        ("<data>AAA=<", "<data>AAAAAAA=<"),
    ):
        assert old in good
        assert schema.validate(etree.fromstring(good))
        assert not schema.validate(etree.fromstring(good.replace(old, new)))


class Slow(BaseModel):
    text: str = Field(pattern="^[a-z]+[a-z]+[a-z]+[a-z]+$")


def test_no_pattern_is_slow_to_check() -> None:
    """libxml2 needs a minute for this one; pydantic takes linear time, whatever is sent."""
    payload_type = PayloadType(Slow, "a.slow")
    assert 'pattern value="[a-z]+[a-z]+[a-z]+[a-z]+"' in payload_type.xsd
    for text in ("a" * 2000 + "-", "-" * 200_000):
        [fault] = faults_of(lambda text=text: payload_type.validate(f"<a.slow><text>{text}</text></a.slow>".encode()))  # type: ignore[misc]
        assert fault.path == "/a.slow/text"
    payload_type.validate(b"<a.slow><text>%b</text></a.slow>" % (b"a" * 100_000))


def test_hints_are_short_and_say_what_to_do() -> None:
    def hints(data: bytes) -> list[tuple[str, str]]:
        return [(fault.path, fault.message) for fault in faults_of(lambda: SHAPES.validate(data))]

    assert hints(b"<a.point/>") == [("/a.point", "this root is not expected.")]
    assert hints(b"<a.shapes><point/><nested><item><item>x</item></item></nested><table/><maybe/></a.shapes>") == [
        ("/a.shapes/texts", "this element is missing"),
        ("/a.shapes/point/x", "this element is missing"),
        ("/a.shapes/nested/item/item", "'x' is not a valid value of the atomic type 'xs:integer'."),
    ]
    good = SHAPES.to_xml(Shapes(texts=[], maybe=[], nested=[], required=1, table={"k": 1}, point=Point(1.0)))
    [(path, message)] = hints(good.replace(b"<required>1", b"<required>one"))
    assert (path, message) == ("/a.shapes/required", "'one' is not a valid value of the atomic type 'xs:integer'.")
    [(path, message)] = hints(good.replace(b"<required>", b"<other/><required>"))
    assert path == "/a.shapes/other"
    assert message.startswith("This element is not expected. Expected:")
    entry = b"<entry><key>k</key><value>1</value></entry>"
    assert hints(good.replace(entry, entry * 2))[0][0] == "/a.shapes/table/entry[2]"
    [(_, message)] = hints(good.replace(b"<required>1", b"<required>" + b"x" * 10_000))
    assert len(message) <= 300


SHAPES = PayloadType(Shapes, "a.shapes")


def test_a_class_that_says_more_than_its_schema() -> None:
    payload_type = PayloadType(Picky, "a.picky")
    payload_type.validate(b"<a.picky><name>known</name></a.picky>")
    for act in (payload_type.validate, payload_type.from_xml):
        assert faults_of(lambda act=act: act(b"<a.picky><name>x</name></a.picky>")) == [  # type: ignore[misc]
            Fault("/a.picky/name", "it must be known")
        ]
    assert faults_of(lambda: payload_type.from_json({"name": "x"})) == [Fault("name", "it must be known")]


def test_a_class_with_a_fault_of_its_own() -> None:
    payload_type = PayloadType(Brittle, "a.brittle")
    [fault] = faults_of(lambda: payload_type.validate(b"<a.brittle><name>x</name></a.brittle>"))
    assert fault.message == "the class could not be made: RuntimeError"
    assert faults_of(lambda: payload_type.from_json({"name": "x"})) == [fault]


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (Tree("a\x00"), "name"),
        (Tree("a", (Tree("b"), Tree("\ud800"))), "children[1].name"),
        (Tree(1), "name"),  # type: ignore[arg-type]
        (Tree("a", (Tree("b"), "c")), "children[1]"),  # type: ignore[arg-type]
        (Tree("a", "bc"), "children"),  # type: ignore[arg-type]
        (Point(1.0), "a.tree"),
        (None, "a.tree"),
    ],
)
def test_objects_that_do_not_fit(obj: object, path: str) -> None:
    assert faults_of(lambda: PayloadType(Tree, "a.tree").to_xml(obj))[0].path == path


def test_objects_that_are_too_deep() -> None:
    payload_type = PayloadType(Tree, "a.tree")
    tree = Tree("leaf")
    for _ in range(MAX_DEPTH - 2):
        tree = Tree("x", parent=tree)
    assert payload_type.from_xml(payload_type.to_xml(tree)) == tree
    for _ in range(2):
        tree = Tree("x", parent=tree)
    assert "deeper" in faults_of(lambda: payload_type.to_xml(tree))[0].message
    circle = Loop()
    circle.inner = circle
    assert "deeper" in faults_of(lambda: PayloadType(Loop, "a.loop").to_xml(circle))[0].message


@dataclass
class Loop:
    inner: Loop | None = None


def test_objects_that_hold_too_many() -> None:
    payload_type = PayloadType(Documented, "a.documented")
    assert payload_type.to_xml(Documented(1, ["x"] * 4096))
    assert "children" in faults_of(lambda: payload_type.to_xml(Documented(1, ["x"] * 4097)))[0].message


def test_bytes_that_are_no_xml() -> None:
    payload_type = PayloadType(Tree, "a.tree")
    for data in (b"", b"{}", b"<!DOCTYPE a><a.tree/>", b"<a.tree>"):
        faults_of(lambda data=data: payload_type.validate(data))  # type: ignore[misc]


@pytest.mark.parametrize(
    "data",
    [
        b'<a.tree x="1"><name>a</name></a.tree>',
        b"<a.tree>text<name>a</name></a.tree>",
        b"<a.tree><name>a</name><name>b</name></a.tree>",
        b"<a.tree><name><b>a</b></name></a.tree>",
        b'<a.tree xmlns="urn:x"><name>a</name></a.tree>',
        b'<a.tree><name xmlns="urn:x">a</name></a.tree>',
    ],
)
def test_structures_that_do_not_fit(data: bytes) -> None:
    faults_of(lambda: PayloadType(Tree, "a.tree").from_xml(data))


@pytest.mark.parametrize(
    ("text", "name"),
    [("9" * 5000, "number"), ("2020-01-01T24:00:00", "moment"), ("10000-01-01T00:00:00", "moment")],
)
def test_values_that_xml_knows_and_python_does_not(text: str, name: str) -> None:
    payload_type = PayloadType(Extremes, "a.extremes")
    data = f"<a.extremes><{name}>{text}</{name}></a.extremes>".encode()
    assert faults_of(lambda: payload_type.from_xml(data))[0].path == f"/a.extremes/{name}"


class Extremes(BaseModel):
    number: int = 0
    moment: NaiveDatetime | None = None
    aware: AwareDatetime | None = None


def test_zones_are_in_the_schema() -> None:
    payload_type = PayloadType(Extremes, "a.extremes")
    schema = etree.XMLSchema(etree.fromstring(payload_type.xsd.encode()))

    def fits(name: str, text: str) -> bool:
        return schema.validate(etree.fromstring(f"<a.extremes><{name}>{text}</{name}></a.extremes>"))

    moment = "2020-01-01T00:00:00"
    assert fits("moment", moment)
    assert fits("moment", moment + ".000001")
    assert not fits("moment", moment + "Z")
    assert not fits("moment", moment + "-05:00")
    assert fits("aware", moment + "Z")
    assert fits("aware", moment + "-05:00")
    assert not fits("aware", moment)


class Pair(NamedTuple):
    a: int


class Typed(TypedDict):
    a: int


class Unsupported(BaseModel):
    anything: Any
    bare_list: list  # type: ignore[type-arg]
    bare_dict: dict  # type: ignore[type-arg]
    either: int | str
    pair: tuple[int, str]
    secret: SecretStr
    named: Pair
    typed: Typed
    call: Callable[[], None]
    equal: Literal[1, True]
    xml_name: str
    fine: list[HttpUrl | None]
    nothing: None


def test_every_field_that_cannot_be_carried_is_told() -> None:
    with pytest.raises(UnsupportedPayload) as caught:
        PayloadType(Unsupported, "a.b")
    told = {fault.path.split("Unsupported.")[1].split("[")[0] for fault in caught.value.faults}
    assert told == set(Unsupported.model_fields) - {"fine"}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Rooted(RootModel[list[int]]):
    pass


@dataclass
class Initial:
    a: InitVar[int]


@dataclass
class Unknown:
    a: Nowhere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("cls", [Open, Rooted, Initial, Unknown, int, Color, Pair, dict])
def test_classes_that_are_no_payload(cls: type[Any]) -> None:
    with pytest.raises(UnsupportedPayload):
        PayloadType(cls, "a.b")


@dataclass
class Derived:
    """`area` is worked out, so it is not carried."""

    side: int
    tags: Sequence[str] = ()
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.side**2


def test_what_is_worked_out_is_not_carried() -> None:
    payload_type = PayloadType(Derived, "a.derived")
    assert 'name="area"' not in payload_type.xsd
    assert payload_type.from_xml(b"<a.derived><side>3</side></a.derived>").area == 9


def test_threads_share_a_type() -> None:
    wrong: list[object] = []
    all_there = threading.Barrier(4)

    def work(number: int) -> None:
        all_there.wait(10)
        for _ in range(200):
            made = TREE.from_xml(f"<a.tree><name>{number}</name></a.tree>".encode())
            found = faults_of(lambda: TREE.validate(f"<a.tree><n{number}/></a.tree>".encode()))
            if made.name != str(number) or f"/a.tree/n{number}" not in {fault.path for fault in found}:
                wrong.append((made, found))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


TREE = PayloadType(Tree, "a.tree")
