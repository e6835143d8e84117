"""The same input means the same as in the reference, except as docs/differences.md lists.

Both agents get every body of `inputs.py`; each fact that differs must be explained by an entry
of `differences.py`, and each entry must be a row of the page and explain something.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kit.agent import AgentProcess
from kit.intake import Intake
from kit.payloads import encode, make_payload
from kit.reference import LAMBDA, ReferenceProcess

from differential.differences import DIFFERENCES, explain
from differential.harness import ABSENT, compare
from differential.inputs import UNREADABLE_NAME, Case, cases, span, trace
from differential.surroundings import azure_function, cloud_function

if TYPE_CHECKING:
    from differential.harness import Found

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "differences.md"

# The reference computes stats unless it is told not to; the trace is what is compared here.
COMMON = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "false"}
SPRING = {
    **COMMON,
    "ASCSVCRT_SPRING__APPLICATION__NAME": "orders",
    "HOSTNAME": "orders-1",
    "DD_SERVERLESS_COMPAT_VERSION": "1.2.3",
    "DD_TAGS": "team:shop, a:b",
}
AZURE_FEW = {
    "FUNCTIONS_EXTENSION_VERSION": "~4",
    "FUNCTIONS_WORKER_RUNTIME": "python",
    "WEBSITE_SITE_NAME": "orders",
}
AZURE_COMMON = {
    **COMMON,
    **AZURE_FEW,
    "FUNCTIONS_WORKER_RUNTIME_VERSION": "3.12",
    "WEBSITE_INSTANCE_ID": "instance-1",
    "WEBSITE_OS": "linux",
}
AZURE = {
    "group by owner": {
        "WEBSITE_OWNER_NAME": "sub-id+shop-rg-EastUS2webspace-Linux",
        "COMPUTERNAME": "box",
        "DD_SERVERLESS_COMPAT_VERSION": "1.2.3",
    },
    "group by variable": {
        "WEBSITE_OWNER_NAME": "Sub-Id+other-rg-EastUS2webspace",
        "WEBSITE_RESOURCE_GROUP": " Shop-RG ",
        "WEBSITE_POD_NAME": "pod",
        "CONTAINER_NAME": "container",
    },
    "flexible plan": {
        "WEBSITE_OWNER_NAME": "sub-id+flex-rg-EastUS2webspace-Linux",
        "WEBSITE_SKU": "FlexConsumption",
        "DD_AZURE_RESOURCE_GROUP": "shop-flex",
        "CONTAINER_NAME": "container",
    },
    "odd owner": {
        "WEBSITE_OWNER_NAME": "sub+id+my+rg-with-hyphens-west-europewebspace-Linux",
        "COMPUTERNAME": " ",
        "WEBSITE_POD_NAME": "pod",
    },
}
CLOUD_FUNCTIONS = {
    "newer runtime": {"K_SERVICE": "orders", "FUNCTION_TARGET": "main"},
    "older runtime": {"FUNCTION_NAME": "orders", "GCP_PROJECT": "shop"},
}

# What some host writes, as a tracer may have written it.
HOST_TAGS = (
    *("origin", "functionname", "asa.name", "asa.hostname", "_dd.serverless_compat_version"),
    *("aas.site.name", "aas.resource.id", "aas.environment.os", "gcrfx.location"),
)

ALL = {case.name: case for case in cases()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Found]]:
    """What differs in a Lambda function, for every case."""
    return compare(ALL.values(), {**LAMBDA, **COMMON}, tmp_path_factory.mktemp("differential"))


@pytest.mark.parametrize("name", ALL)
def test_the_same_input_means_the_same(name: str, found: dict[str, list[Found]]) -> None:
    assert [each for each in found[name] if explain(each) is None] == []


def test_every_listed_difference_shows(found: dict[str, list[Found]]) -> None:
    shown = {explain(each) for several in found.values() for each in several}
    assert [each.row for each in DIFFERENCES if each not in shown] == []


def test_every_difference_is_a_row_of_the_page() -> None:
    rows = re.findall(r"^\| ([^|]*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [
        each.row for each in DIFFERENCES if not any(row.startswith(each.row) for row in rows)
    ] == []


def flat(found: dict[str, list[Found]]) -> list[Found]:
    """What differs in any case."""
    return [each for several in found.values() for each in several]


# Read by tracers; to the agent `DD_ENV` is the env of stats whose spans name none.
SAID_TO_TRACERS = {"DD_ENV": "Set Env", "DD_SERVICE": "set-service", "DD_VERSION": "7"}


def test_what_tracers_are_told_is_written_into_no_span(tmp_path: Path) -> None:
    bare = span(meta={}, service="")
    named = span(meta={"env": "Own Env", "version": "1"})
    inputs = [
        Case("nothing named", encode([[bare]])),
        Case("something named", encode([[named]])),
        Case("both", encode([[bare], [named]])),
    ]
    settings = {**LAMBDA, **COMMON, **SAID_TO_TRACERS}
    assert flat(compare(inputs, settings, tmp_path)) == []


def test_tags_of_the_operator_go_with_the_payload(tmp_path: Path) -> None:
    tags = "team:shop env:prod,service:orders  url:http://a,plain,version:2"
    found = flat(
        compare(
            [Case("tags", encode([[span(meta={})]]))],
            {**LAMBDA, **COMMON, "DD_TAGS": tags},
            tmp_path,
        )
    )
    # An item with two colons is left out there.
    whole = "env:prod,service:orders,team:shop,url:http://a,version:2"
    assert [(each.fact, each.ours, each.reference) for each in found] == [
        ("payload.tags._dd.tags.function", whole, whole.replace("url:http://a,", ""))
    ]


def host_cases() -> list[Case]:
    """What the tags of a host are written to: roots, other spans, and what is left alone."""
    apim = span(name="azure.apim", service="apim")
    return [
        Case("traces", encode([trace(3), trace(1)])),
        Case(
            "gateway", encode([[apim, span(trace_id=apim["trace_id"], parent_id=apim["span_id"])]])
        ),
        Case("no parent", encode([trace(2, parent_id=5)])),
        Case("tagged by tracers", encode([[span(meta=dict.fromkeys(HOST_TAGS, "tracer's"))]])),
    ]


def test_a_lambda_function_gives_spans_the_same_tags(tmp_path: Path) -> None:
    settings = {**LAMBDA, **COMMON, "DD_SERVERLESS_COMPAT_VERSION": "1.2.3"}
    assert flat(compare(host_cases(), settings, tmp_path)) == []


def test_a_spring_app_gives_spans_the_same_tags(tmp_path: Path) -> None:
    assert flat(compare(host_cases(), SPRING, tmp_path)) == []


@pytest.mark.parametrize("name", AZURE)
def test_an_azure_function_gives_spans_the_same_tags(name: str, tmp_path: Path) -> None:
    settings = {**AZURE_COMMON, **AZURE[name]}
    with azure_function(tmp_path) as within:
        assert flat(compare(host_cases(), settings, tmp_path, within)) == []


def test_azure_tags_nobody_set_are_left_out(tmp_path: Path) -> None:
    settings = {**COMMON, **AZURE_FEW}
    with azure_function(tmp_path) as within:
        facts = set(flat(compare(host_cases(), settings, tmp_path, within)))
    assert {each.fact.rpartition(".")[0] for each in facts} == {
        "meta.aas.environment", "meta.aas.resource", "meta.aas.subscription",
    }  # fmt: skip
    assert {(each.ours, each.reference) for each in facts} <= {
        (ABSENT, "unknown"), ("tracer's", "unknown"),
    }  # fmt: skip


@pytest.mark.parametrize("name", CLOUD_FUNCTIONS)
def test_a_cloud_function_gives_spans_the_same_tags(name: str, tmp_path: Path) -> None:
    with cloud_function(tmp_path) as (within, server):
        settings = {**COMMON, **CLOUD_FUNCTIONS[name], "GCE_METADATA_HOST": server.host}
        assert flat(compare(host_cases(), settings, tmp_path, within)) == []
        # Both asked, each in its way.
        assert {method for method, _ in server.requests} == {"GET", "POST"}


def test_a_name_beyond_ascii_costs_the_reference_the_whole_request(tmp_path: Path) -> None:
    body = encode([trace(1, name=UNREADABLE_NAME)])
    with (
        Intake() as intake,
        ReferenceProcess({"DD_APM_DD_URL": intake.url, **COMMON}, tmp_path) as reference,
    ):
        reference.wait_ready()
        reference.send(body)
        intake.wait_for(lambda: intake.complaints)
        assert "bad UTF-8" in intake.complaints[0]
    with (
        Intake() as intake,
        AgentProcess({"DD_APM_DD_URL": intake.url, **LAMBDA}, tmp_path) as agent,
    ):
        agent.wait_ready()
        agent.send(body)
        agent.send(make_payload())
        assert "caf_au_lait" in {each.name for each in intake.wait_for_spans(2)}
        assert intake.complaints == []
