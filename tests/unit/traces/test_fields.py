from __future__ import annotations

import pytest
from kit import protos

from mini_agent.traces import fields

# Our name -> the message's name and those of its fields, where they are not the same words.
MESSAGES = {
    "AgentPayload": ("AgentPayload", {}),
    "TracerPayload": ("TracerPayload", {}),
    "TraceChunk": ("TraceChunk", {}),
    "Span": ("Span", {}),
    "SpanLink": ("SpanLink", {}),
    "SpanEvent": ("SpanEvent", {}),
    "AttributeValue": (
        "AttributeAnyValue",
        {
            "STRING": "string_value",
            "BOOL": "bool_value",
            "INT": "int_value",
            "DOUBLE": "double_value",
            "ARRAY": "array_value",
        },
    ),
    "AttributeArray": ("AttributeArray", {}),
}


@pytest.mark.parametrize("ours", MESSAGES)
def test_numbers_are_those_of_the_schema(ours: str) -> None:
    name, words = MESSAGES[ours]
    descriptor = getattr(protos.load(), name).DESCRIPTOR
    theirs = {field.name.replace("_", "").lower(): field.number for field in descriptor.fields}
    numbers = {name: n for name, n in vars(getattr(fields, ours)).items() if name.isupper()}
    assert numbers
    for constant, number in numbers.items():
        assert theirs[words.get(constant, constant).replace("_", "").lower()] == number
