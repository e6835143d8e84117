"""listen.pipe_name: every way to write the name of one pipe, and what cannot be one."""

from __future__ import annotations

import pytest

from mini_agent.listen.pipe_name import PATH_CHARACTERS_MAX, normalize_name

PREFIX = "\\\\.\\pipe\\"


@pytest.mark.parametrize("text", ["traces", PREFIX + "traces", "\\\\.\\PIPE\\traces"])
def test_the_prefix_may_be_there_in_any_letter_case(text: str) -> None:
    assert normalize_name(text) == PREFIX + "traces"


def test_the_name_itself_is_left_as_it_is() -> None:
    assert normalize_name("Ünique name: 1/2?") == PREFIX + "Ünique name: 1/2?"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (PREFIX, "is empty"),
        ("a\\b", "no backslash"),
        (PREFIX + PREFIX + "a", "no backslash"),
        ("\\\\host\\pipe\\a", "no backslash"),
        ("a\0b", "no NUL"),
        ("a" * 248, "257 characters long; at most 256"),
        ("\U0001f600" * 124, "257 characters long"),
    ],
)
def test_what_cannot_be_a_pipe_is_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        normalize_name(text)


def test_the_longest_path_is_allowed() -> None:
    assert len(normalize_name("a" * 247)) == PATH_CHARACTERS_MAX
