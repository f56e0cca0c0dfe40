"""Any instance of the classes, with any text that XML can carry."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from tests.unit.payload.classes import Color, Level, Point, Scalars, Shapes, Tree
from xml_pipeline.envelope.text import clean_text

texts = st.text(st.characters() | st.sampled_from("\r\n\t <>&\"']")).map(clean_text)
zones = st.none() | st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
datetimes = st.datetimes(timezones=zones) | st.datetimes()
floats = st.floats(allow_nan=False) | st.sampled_from(
    (0.0, -0.0, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308)
)
decimals = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(("1.10", "-0.00", "1E+20", "1E-30"))
integers = st.integers() | st.integers(-(10**300), 10**300)
points: st.SearchStrategy[Point] = st.builds(Point, floats, floats, st.none() | texts)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.builds(Tree, texts),
    lambda below: st.builds(Tree, texts, st.lists(below, max_size=3).map(tuple), st.none() | below),
    max_leaves=6,
)


def _inside(moment: datetime) -> bool:
    """An offset that XML does not know is written as UTC, where the first and last day of all time have no room."""
    return 2 <= moment.year <= 9998


scalars = st.builds(
    Scalars,
    text=texts,
    flag=st.booleans(),
    number=integers,
    real=floats,
    exact=decimals,
    moment=datetimes.filter(_inside),
    day=st.dates(),
    clock=st.times(),
    span=st.timedeltas(),
    id=st.uuids(),
    data=st.binary(),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    choice=st.sampled_from(("a", " a", 1, None)),
)
shapes = st.builds(
    Shapes,
    texts=st.lists(texts),
    maybe=st.lists(st.none() | texts),
    nested=st.lists(st.lists(integers, max_size=3), max_size=3),
    options=st.none() | st.lists(texts, max_size=3),
    given=st.lists(texts, max_size=2),
    number=st.none() | integers,
    required=st.none() | integers,
    table=st.dictionaries(texts, integers, max_size=3),
    levels=st.dictionaries(st.sampled_from(Level), st.none() | points),
    numbers=st.lists(integers, max_size=3).map(tuple),
    bag=st.sets(texts, max_size=3),
    frozen=st.frozensets(integers, max_size=3),
    point=points,
    tree=st.none() | trees,
    moments=st.dictionaries(datetimes.filter(_inside), st.binary(), max_size=2),
)
