from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables
from kit.growth import growing

from mini_agent.traces.obfuscate.documents import DocumentRules, obfuscate_document

NO_RULES = DocumentRules()

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def without_values(value):
    if isinstance(value, dict):
        return {key: without_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_values(each) for each in value]
    return "?"


@pytest.mark.parametrize("case", tables.load("obfuscate/documents"), ids=lambda c: c["input"][:40])
def test_a_document_becomes_what_the_table_says(case):
    rules = DocumentRules(case["keep"], case["sql"])
    assert obfuscate_document(case["input"], rules) == case["expected"]


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_keys_and_shape_stay_and_values_go(value, is_ascii, indent):
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert json.loads(obfuscate_document(text, NO_RULES)) == without_values(value)


@given(VALUES)
def test_obfuscating_twice_changes_nothing(value):
    once = obfuscate_document(json.dumps(value), NO_RULES)
    assert obfuscate_document(once, NO_RULES) == once


@given(VALUES)
def test_what_lies_under_a_kept_key_stays(value):
    text = json.dumps({"hidden": value, "kept": value})
    found = json.loads(obfuscate_document(text, DocumentRules(keep_keys=["kept"])))
    assert found["kept"] == value


@given(st.text('{}[]":,\\u0123 trufalsn.eE+-\n\x00\u00e9', max_size=60))
def test_any_text_is_taken_and_what_is_no_json_says_so(text):
    result = obfuscate_document(text, DocumentRules(["t"], ["a"]))
    try:
        json.loads(text)
    except ValueError:
        return
    assert not result.endswith("...")


@given(VALUES, st.integers(0, 200))
def test_a_value_cut_off_does_not_survive(value, length):
    text = json.dumps({"key": "s3cr3t", "other": value})[:length]
    assert "s3cr" not in obfuscate_document(text, NO_RULES)


def hostile_shapes(length):
    return {
        "lists": "[" * length,
        "objects": '{"a":' * (length // 5),
        "escapes": '"' + "\\u0041" * (length // 6),
        "values without an end": "1 " * (length // 2),
    }


@pytest.mark.slow
def test_time_grows_with_the_length_whatever_the_document_holds():
    def change(text):
        return obfuscate_document(text, NO_RULES)

    assert growing(change, hostile_shapes) == {}
