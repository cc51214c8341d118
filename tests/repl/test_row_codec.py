"""The rows of every stream survive their encoding."""

import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.stream_def import StreamDef
from hs.core.streams import CATALOGUE
from hs.repl.row_codec import decode_rows, encode_rows

INTEGERS = st.integers(-(2**63), 2**63 - 1)  # what MessagePack can hold
PLAIN = {
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    int: INTEGERS,
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type that rows may contain."""
    if hint in PLAIN:
        return PLAIN[hint]
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return st.one_of([values_of(argument) for argument in arguments])
    if typing.get_origin(hint) is tuple and arguments[-1] is ...:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if typing.get_origin(hint) is tuple:
        return st.tuples(*[values_of(argument) for argument in arguments])
    fields = typing.get_type_hints(hint)
    return st.builds(hint, **{name: values_of(field) for name, field in fields.items()})


@pytest.mark.parametrize("stream", CATALOGUE, ids=lambda stream: stream.name)
@given(st.data())
def test_rows_survive_their_encoding(stream: StreamDef[Any], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(INTEGERS, values_of(stream.row)), max_size=2))

    assert decode_rows(stream, encode_rows(rows)) == rows
