from __future__ import annotations

from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.sender import Sender
from mini_agent.traces.span import Span, TraceChunk

AZURE = Enrichment(
    origin="azurefunction",
    root_tags={"functionname": "orders"},
    span_tags={"_dd.serverless_compat_version": "1.2.3"},
    azure_tags={"aas.site.kind": "functionapp", "aas.site.name": "orders"},
    function_tags="team:shop,tier:1",
)
LOCAL = Enrichment(None, {}, {}, {}, "")
TRACER = Sender({})


def make_span(name: str = "flask.request", **meta: str) -> Span:
    span = Span()
    span.name = name
    for key, value in meta.items():
        span.set_meta(key, value)
    return span


def test_the_root_says_where_it_ran() -> None:
    root = make_span(functionname="older", origin="older")
    AZURE.enrich_root(TraceChunk([root]), TRACER)
    assert dict(root.meta_items()) == {
        "_dd.origin": "azurefunction",
        "origin": "azurefunction",
        "functionname": "orders",
    }


def test_only_the_root_says_it() -> None:
    child, root = make_span(), make_span()
    AZURE.enrich_root(TraceChunk([child, root]), TRACER)
    assert list(child.meta_items()) == []


def test_the_origin_a_product_has_set_stays() -> None:
    root = make_span()
    root.set_meta("_dd.origin", "synthetics")
    AZURE.enrich_root(TraceChunk([root]), TRACER)
    assert root.get_meta("_dd.origin") == "synthetics"
    assert root.get_meta("origin") == "azurefunction"


def test_an_empty_origin_is_none() -> None:
    root = make_span()
    root.set_meta("_dd.origin", "")
    AZURE.enrich_root(TraceChunk([root]), TRACER)
    assert root.get_meta("_dd.origin") == "azurefunction"


def test_every_span_says_which_function_app_it_is_from() -> None:
    span = make_span()
    span.set_meta("aas.site.name", "older")
    AZURE.enrich_spans(TraceChunk([span]))
    assert dict(span.meta_items()) == {
        "_dd.serverless_compat_version": "1.2.3",
        "aas.site.kind": "functionapp",
        "aas.site.name": "orders",
    }


def test_spans_of_api_management_are_from_no_function_app() -> None:
    span = make_span("azure.apim")
    AZURE.enrich_spans(TraceChunk([span]))
    assert dict(span.meta_items()) == {"_dd.serverless_compat_version": "1.2.3"}


def test_a_local_host_adds_nothing() -> None:
    span = make_span()
    LOCAL.enrich_root(TraceChunk([span]), TRACER)
    LOCAL.enrich_spans(TraceChunk([span]))
    assert list(span.meta_items()) == []
    assert LOCAL.payload_tags == {}


def test_the_operators_tags_are_for_whole_payloads() -> None:
    assert AZURE.payload_tags == {"_dd.tags.function": "team:shop,tier:1"}
