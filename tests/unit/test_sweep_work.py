"""Keys, canonical values, and arrays as bytes."""

import json
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load
from tests.support.sweeping import Products

from assay.errors import UsageError
from assay.results import checked
from assay.sweep import Item, canonical, digest_of, key_of
from assay.sweep.arrays import content_digest, decode, encode, normalised

NUMBERS = st.one_of(*(arrays_of.scalar_dtypes() for _ in range(1))).filter(lambda kind: kind.kind in "biuf")
KINDS = st.sampled_from([numpy.dtype(name) for name in ("?", "u1", "i1", ">i2", "<u4", "i8", "f2", ">f4", "f8")])
OUTCOMES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    KINDS.flatmap(lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=5))),
    max_size=4,
)


def test_a_key_is_decided_by_content_alone():
    job, item = Products(), Item("first", {"b": 2, "a": [1, 0.5]}, 1.0)
    same = Item("other name", {"a": (1, 0.5), "b": 2}, 99.0)
    assert key_of(job, 0, item) == key_of(job, 0, same)
    others = [
        key_of(job, 1, item),
        key_of(Products(count=13), 0, item),
        key_of(Products(threads=2), 0, item),
        key_of(Products(name="another"), 0, item),
        key_of(job, 0, Item("first", {"b": 2, "a": [1, 0.25]})),
    ]
    assert len({key_of(job, 0, item), *others}) == 6
    assert digest_of(Products(pause=3.0)) == digest_of(job)  # what does not decide results is not part of it


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, b"bytes", numpy.float32(1.0), {"a": {"b": object()}}])
def test_what_is_not_plain_is_refused_with_its_place(value):
    with pytest.raises(UsageError, match="cannot hold") as caught:
        canonical({"settings": [value]})
    assert caught.value.where.startswith("settings[0]")


@given(OUTCOMES)
def test_outcomes_come_back_as_they_were(outcome):
    kept = normalised(outcome, "here")
    content = encode(kept, {"key": "k"})
    found, facts = decode(content)
    assert list(found) == sorted(outcome) == list(kept)
    assert facts["key"] == "k"
    for name, array in found.items():
        assert array.dtype == outcome[name].dtype.newbyteorder("<")
        assert array.shape == outcome[name].shape
        assert array.tobytes() == outcome[name].astype(array.dtype).tobytes()
        assert not array.flags.writeable
    assert content == encode(normalised(dict(reversed(outcome.items())), "here"), {"key": "k"})
    assert content_digest(found) == content_digest(kept)
    assert set(load(content)) == set(outcome)  # other readers of safetensors read it, too


@given(OUTCOMES, st.data())
def test_one_changed_byte_is_seen(outcome, data):
    content = bytearray(encode(normalised(outcome, "here"), {"key": "k", "seconds": "0.25"}))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(content))


def test_booleans_take_one_bit():
    outcome = normalised({"right": numpy.ones((100, 80), bool)}, "here")
    assert len(encode(outcome, {})) < 1000 + 400


@pytest.mark.parametrize("value", ["text", 1j, object(), numpy.array(["a"]), [1, [2, 3]]])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises((UsageError, ValueError)):
        normalised({"a": value}, "item 3")


def test_no_mapping_is_refused():
    with pytest.raises(UsageError, match="list instead of a mapping") as caught:
        normalised([1, 2], "item 3")  # type: ignore[arg-type]
    assert caught.value.where == "item 3"


def test_documents_certify_themselves():
    text = checked.document({"name": 'with "assay-checksum":"0" in it', "values": [1, None]})
    assert checked.intact(text)
    assert json.loads(text)["values"] == [1, None]
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= 1
        assert not checked.intact(bytes(changed))
    assert not checked.intact(text[:-1])
    assert not checked.intact(b"{}")
