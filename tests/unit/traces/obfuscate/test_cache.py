from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate.cache import ResultCache


def test_what_was_put_is_found():
    cache = ResultCache(10_000)
    assert cache.get(("a", "")) is None
    cache.put(("a", ""), "b")
    assert cache.get(("a", "")) == "b"
    assert cache.get(("a", "mysql")) is None


def test_what_is_in_use_stays_and_the_rest_goes():
    cache = ResultCache(2_000)
    cache.put(("used", ""), "kept")
    for number in range(1_000):
        cache.put((f"query {number}", ""), "x" * 20)
        assert cache.get(("used", "")) == "kept"
    assert cache.get(("query 1", "")) is None


def test_without_room_nothing_is_remembered():
    cache = ResultCache(0)
    cache.put(("a", ""), "b")
    assert cache.get(("a", "")) is None


def test_long_texts_are_not_remembered():
    cache = ResultCache(10**6)
    cache.put(("a" * 20_000, ""), "b")
    assert cache.get(("a" * 20_000, "")) is None


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=60))
def test_the_bound_holds(entries):
    bound = 200
    cache = ResultCache(bound)
    for text, result in entries:
        cache.put((text, ""), result)
    texts = {text for text, _ in entries}
    held = [(text, cache.get((text, ""))) for text in texts]
    # Asking moves entries to the younger generation, which has half of the room.
    assert sum(len(text) + len(result) for text, result in held if result is not None) <= 2 * bound
