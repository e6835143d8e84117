from __future__ import annotations

import io
import random
import textwrap
import time
import unicodedata

import pytest

from mini_agent.viewer import store as store_module
from mini_agent.viewer.show import list_traces, print_trace

START_NS = 1_790_000_000_000_000_000
MS = 1_000_000


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    """A terminal of 100 columns; call to have another."""

    def resize(count: int) -> None:
        monkeypatch.setenv("COLUMNS", str(count))

    resize(100)
    return resize


def listed(path, limit=20, service=None, encoding="utf-8"):
    return printed(list_traces, path, limit, service, encoding=encoding)


def shown(path, trace_id, encoding="utf-8"):
    return printed(print_trace, path, trace_id, encoding=encoding)


def printed(function, *arguments, encoding):
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    status = function(*arguments, out)
    out.flush()
    return status, raw.getvalue().decode(encoding)


def local(time_ns):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 10**9))


def width(line):
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in line
    )


@pytest.fixture
def checkout(store, span, body):
    """A trace of three services in which something failed."""

    def timed(span_id, parent_id, name, start, duration, **fields):
        fields.setdefault("resource", name)
        return span(
            span_id, parent_id, name=name, start=START_NS + start, duration=duration, **fields
        )

    store.add_payload(
        body(
            [
                timed(6, 1, "web.render", 205 * MS, 900),
                timed(
                    1,
                    0,
                    "web.request",
                    0,
                    212 * MS,
                    resource="POST /checkout",
                    error=1,
                    meta={"_dd.p.tid": "6741a3f500000000"},
                ),
                timed(
                    2,
                    1,
                    "shop.checkout",
                    1_200_000,
                    200 * MS,
                    error=1,
                    meta={"error.type": "PaymentError", "error.message": "card refused"},
                ),
                timed(3, 2, "sql.query", 3 * MS, 340_000, resource="SELECT 1", service="carts"),
                timed(4, 2, "http.request", 10 * MS, 150 * MS, resource="POST"),
                timed(5, 4, "pay.take", 12 * MS, 146 * MS, service="payments"),
                timed(7, 99, "late.job", 207 * MS, 4 * MS, service="jobs"),
            ],
            env="prod",
        )
    )


def test_a_trace_is_a_tree_with_times(checkout, path):
    status, text = shown(path, "f234567890abcdef")
    assert status == 0
    assert text == textwrap.dedent(
        f"""\
        Trace 6741a3f500000000f234567890abcdef (decimal 17452669531790757359)
        {local(START_NS)}, 212 ms, 7 spans, 2 errors, env prod, services carts, jobs, payments, web

            START  DURATION  RAN                       SPAN
             0 ns    212 ms  ████████████████████████  web.request  POST /checkout  [web]  ✗ error
           1.2 ms    200 ms  ███████████████████████░  ├─ shop.checkout  ✗ error
                                                       │ │ ✗ PaymentError: card refused
             3 ms    340 µs  █░░░░░░░░░░░░░░░░░░░░░░░  │ ├─ sql.query  SELECT 1  [carts]
            10 ms    150 ms  ░██████████████████░░░░░  │ └─ http.request  POST
            12 ms    146 ms  ░█████████████████░░░░░░  │   └─ pay.take  [payments]
           205 ms    900 ns  ░░░░░░░░░░░░░░░░░░░░░░░█  └─ web.render
           207 ms      4 ms  ░░░░░░░░░░░░░░░░░░░░░░░█  late.job  [jobs]
        """
    )


def test_a_terminal_without_these_characters_gets_plain_ones(checkout, path):
    status, text = shown(path, "f234567890abcdef", encoding="ascii")
    assert status == 0
    assert text.splitlines()[5:9] == [
        "   1.2 ms    200 ms  #######################.  |- shop.checkout  ! error",
        "                                               | | ! PaymentError: card refused",
        "     3 ms    340 us  #.......................  | |- sql.query  SELECT 1  [carts]",
        "    10 ms    150 ms  .##################.....  | `- http.request  POST",
    ]


def test_a_narrow_terminal_gets_short_bars(checkout, path, columns):
    columns(80)
    assert shown(path, "f234567890abcdef")[1].splitlines()[4:6] == [
        "     0 ns    212 ms  ████████████  web.request  POST /checkout  [web]  ✗ error",
        "   1.2 ms    200 ms  ████████████  ├─ shop.checkout  ✗ error",
    ]


def test_the_list_is_a_table_newest_first(checkout, store, path, span, body):
    nightly = span(
        1, traceID=0xAB << 56, service="batch", name="cron", start=START_NS + 10**10, duration=5
    )
    store.add_payload(body([nightly]))
    status, text = listed(path)
    assert status == 0
    assert text == textwrap.dedent(
        f"""\
        ID        STARTED              DURATION  SPANS  ERRORS  SERVICE  NAME         RESOURCE
        ab000000  {local(START_NS + 10**10)}      5 ns      1          batch    cron         GET /
        f2345678  {local(START_NS)}    212 ms      7       2  web      web.request  POST /checkout
        """
    )


def test_traces_of_today_are_listed_without_the_date(store, path, span, body):
    now_ns = time.time_ns()
    store.add_payload(body([span(1, start=now_ns)]))
    (_, line) = listed(path)[1].splitlines()
    assert f"  {local(now_ns)[11:]}  " in line or local(time.time_ns())[:10] != local(now_ns)[:10]


def test_the_list_has_no_more_than_asked_for(store, path, span, body):
    store.add_payload(body(*([span(1, traceID=n)] for n in range(1, 9))))
    assert len(listed(path, limit=3)[1].splitlines()) == 1 + 3


def test_the_list_can_be_of_one_service(checkout, store, path, span, body):
    store.add_payload(body([span(1, traceID=5)]))
    assert len(listed(path, service="payments")[1].splitlines()) == 1 + 1
    assert listed(path, service="x\x1b") == (
        0,
        "No stored trace has a span of the service x\\x1b.\n",
    )


def test_an_empty_store_says_how_to_send(store, path):
    store.prepare()
    status, text = listed(path)
    assert status == 0
    assert text.startswith("No traces yet.")
    assert "DD_API_KEY" in text


@pytest.mark.parametrize("ask", [listed, lambda path: shown(path, "1")])
def test_a_missing_store_is_said_with_status_1(path, ask):
    status, text = ask(path)
    assert status == 1
    assert text.startswith(f"There is no trace store at {path} yet.\n")
    assert "DD_API_KEY" in text


@pytest.mark.parametrize("ask", [listed, lambda path: shown(path, "1")])
def test_a_damaged_store_is_said_with_status_1(tmp_path, ask):
    damaged = tmp_path / "traces.db"
    damaged.write_bytes(b"no database" * 1000)
    status, text = ask(str(damaged))
    assert status == 1
    assert "cannot be read" in text
    assert "DD_API_KEY" not in text


def test_an_unknown_id_is_said_with_status_1(checkout, path):
    assert shown(path, "ab\x1b[2J") == (1, "No stored trace has the id ab\\x1b[2J.\n")


def test_an_id_that_fits_several_names_them_with_status_1(checkout, store, path, span, body):
    store.add_payload(body([span(1, traceID=0xF234000000000001, name="other")]))
    assert shown(path, "f234") == (
        1,
        "f234 fits 2 traces:\n"
        "  0000000000000000f234000000000001  other\n"
        "  6741a3f500000000f234567890abcdef  web.request\n",
    )


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1 µs"),
        (1_234, "1.23 µs"),
        (340_000, "340 µs"),
        (999_499, "999 µs"),
        (999_500, "1 ms"),
        (1_200_000, "1.2 ms"),
        (2_314_000_000, "2.31 s"),
        (119_000_000_000, "119 s"),
        (120_000_000_000, "2m 0s"),
        (3_725_000_000_000, "62m 5s"),
        (7_260_000_000_000, "2h 1m"),
    ],
)
def test_durations_have_three_digits_and_a_unit(store, path, span, body, duration_ns, text):
    store.add_payload(body([span(1, duration=duration_ns, traceID=0xAB << 56)]))
    _, list_text = listed(path)
    assert f"  {text}  " in list_text.splitlines()[1]


UGLY = "\x00\x1b]0;owned\x07\r\n\t\x7f\x9b31m\u202e\u2028\u200b"
ESCAPED = r"\x00\x1b]0;owned\x07\r\n\t\x7f\x9b31m\u202e\u2028\u200b"


def test_no_text_of_a_span_reaches_the_terminal_as_it_is(store, path, span, body, columns):
    columns(1000)
    failed = span(
        1,
        name=UGLY,
        resource="r" + UGLY,
        service="s" + UGLY,
        error=1,
        meta={"error.message": UGLY, "error.type": UGLY},
    )
    store.add_payload(body([failed], env=UGLY))
    text = listed(path)[1] + shown(path, "f2")[1]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert f"  r{ESCAPED}" in text
    assert f"✗ {ESCAPED}: {ESCAPED}\n" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_lines_are_as_wide_as_the_terminal(store, path, span, body, columns, encoding):
    columns(100)
    texts = ["x" * 3000, "日本語" * 500, "e\u0301" * 900, "\x1b" * 900, "é" * 900]
    spans = [
        span(n, n - 1, name=text, resource="r" + text, service="s" + text, error=1)
        for n, text in enumerate(texts, start=1)
    ]
    for one in spans:
        one.meta["error.message"] = one.name
    store.add_payload(body(spans, env=texts[1]))
    for _, text in (listed(path, encoding=encoding), shown(path, "f2", encoding=encoding)):
        if encoding == "utf-8":
            assert max(map(width, text.splitlines())) <= 100


def test_children_of_a_span_that_is_not_stored_are_roots(store, path, span, body):
    store.add_payload(body([span(2, 1, name="b", start=9), span(4, 3, name="a", start=5)]))
    lines = shown(path, "f2")[1].splitlines()[4:]
    assert [line[47:].split()[0] for line in lines] == ["a", "b"]


@pytest.mark.parametrize(
    "parents",
    [{1: 1}, {1: 2, 2: 1}, {1: 2, 2: 3, 3: 1, 4: 3, 5: 0}, {5: 4, 4: 3, 3: 5, 1: 0}],
    ids=str,
)
def test_circles_of_parents_are_printed_once(store, path, span, body, parents):
    names = {number: f"span-{number}" for number in parents}
    store.add_payload(
        body([span(n, p, name=names[n], resource=names[n]) for n, p in parents.items()])
    )
    text = shown(path, "f2")[1]
    assert [text.count(name) for name in names.values()] == [1] * len(parents)


def test_the_depth_of_a_trace_does_not_matter(store, path, span, body):
    depth = 10_000
    spans = [span(n, n - 1, name=f"n{n}", resource="") for n in range(1, depth + 1)]
    random.Random(1).shuffle(spans)
    store.add_payload(body(spans))
    status, text = shown(path, "f2")
    lines = text.splitlines()[4:]
    assert status == 0
    assert [line.split()[-1] for line in lines[1:]] == [f"n{n}" for n in range(2, depth + 1)]
    assert max(map(len, lines)) <= 120
    assert "…9999 n10000" in lines[-1]


def test_a_trace_of_a_moment_has_whole_bars(store, path, span, body):
    store.add_payload(body([span(1, duration=0), span(2, 1, duration=0)]))
    assert shown(path, "f2")[1].count("█" * 24) == 2


def test_times_no_calendar_has_are_printed_as_unknown_or_as_they_are(store, path, span, body):
    highest = (1 << 63) - 1
    store.add_payload(body([span(1, start=-highest), span(2, 1, start=highest)]))
    assert listed(path)[0] == 0
    assert shown(path, "f2")[0] == 0


def test_spans_that_were_let_go_are_mentioned(store, path, span, body, monkeypatch):
    monkeypatch.setattr(store_module, "SPANS_PER_TRACE_MAX", 2)
    store.add_payload(body([span(n) for n in range(1, 6)]))
    assert "3 earlier spans of it no longer stored" in shown(path, "f2")[1]
