"""A small shop under ddtrace-run: serves a few requests it makes itself and says what it traced.

Its last line is a JSON list of the spans as they were when their trace was finished, before the
tracer's writer saw them. Nothing of the kit is imported here: this runs as any application does.
"""

from __future__ import annotations

import http.client
import json
import threading

from ddtrace.trace import Context, Span, TraceFilter, tracer
from flask import Flask
from werkzeug.serving import make_server

app = Flask("shop")


class Notebook(TraceFilter):
    """Writes down every span of every finished trace and lets it pass."""

    def __init__(self) -> None:
        self.spans: list[dict[str, object]] = []

    def process_trace(self, trace: list[Span]) -> list[Span]:
        self.spans.extend(map(describe, trace))
        return trace


def describe(span: Span) -> dict[str, object]:
    return {
        "trace_id": str(span.trace_id & (1 << 64) - 1),
        "span_id": str(span.span_id),
        "parent_id": str(span.parent_id or 0),
        "service": span.service or "",
        "name": span.name,
        "resource": span.resource,
        "type": span.span_type or "",
        "error": span.error,
        "start": span.start_ns,
        "duration": span.duration_ns,
        "meta": dict(span.get_tags()),
        "metrics": dict(span.get_metrics()),
        "span_links": [link.to_dict() for link in span._get_links()],
        "span_events": [dict(event) for event in span._get_events()],
        "meta_struct": dict(span._get_meta_structs()),
    }


@app.route("/orders/<int:number>")
def show_order(number: int) -> str:
    with tracer.trace("shop.price", service="shop-prices", resource="price of an order") as span:
        span.set_tag("city", "Zürich, 東京, 🦉")
        span.set_tag("empty", "")
        span.set_metric("items", number)
        span.set_metric("share", 0.125)
        span.set_metric("far", 1e300)
        with tracer.trace("shop.lookup", resource="lookup") as inner:
            inner.set_tag("key with spaces", "a value\nof two lines")
            inner._set_struct_tag(
                "finding", {"rule": number, "names": ["a", "ü"], "deep": {"x": 1.5}}
            )
    return f"order {number}"


@app.route("/linked")
def show_linked() -> str:
    with tracer.trace("shop.linked", resource="linked") as span:
        span.set_link(
            trace_id=(0x1234567890ABCDEF << 64) + 0xFEDCBA0987654321,
            span_id=0xFFFFFFFFFFFFFFFE,
            tracestate="dd=s:1;o:web,other=a",
            flags=1,
            attributes={"reason": "grün", "count": 3},
        )
        span.link_span(Context(trace_id=77, span_id=88), {"kind": "short"})
        span._add_event(
            "restocked",
            {
                "where": "Köln",
                "ok": True,
                "boxes": -(2**53),
                "weight": 2.5,
                "names": ["a", "ö"],
                "sizes": [1, 2, 3],
            },
            1_790_000_000_123_456_789,
        )
        span._add_event("counted")
    return "linked"


@app.route("/broken")
def break_down() -> str:
    with tracer.trace("shop.broken", resource="broken"):
        raise ValueError("the till is empty: 売り切れ")


def main() -> None:
    notebook = Notebook()
    tracer.configure(trace_processors=[notebook])
    server = make_server("127.0.0.1", 0, app)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for path in ("/orders/1", "/orders/2?sort=up", "/linked", "/broken", "/nowhere"):
        client.request("GET", path, headers={"User-Agent": "shop-test"})
        client.getresponse().read()
        client.close()
    server.shutdown()
    serving.join()
    server.server_close()
    tracer.shutdown(timeout=10)
    print(json.dumps(notebook.spans))


if __name__ == "__main__":
    # Views are traced under their module's name, and "__main__" is no name an agent keeps.
    import flask_shop

    flask_shop.main()
