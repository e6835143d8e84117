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
from differential.harness import compare
from differential.inputs import UNREADABLE_NAME, Case, cases, span, trace

if TYPE_CHECKING:
    from differential.harness import Found

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "differences.md"

# The reference computes stats unless it is told not to; the trace is what is compared here.
COMMON = {"DD_AGENT_STATS_COMPUTATION_ENABLED": "false"}
ENVIRONMENTS = {
    "spring": {
        **COMMON,
        "ASCSVCRT_SPRING__APPLICATION__NAME": "orders",
        "HOSTNAME": "orders-1",
        "DD_SERVERLESS_COMPAT_VERSION": "1.2.3",
        "DD_TAGS": "team:shop, a:b",
    },
    "azure": {
        **COMMON,
        "FUNCTIONS_EXTENSION_VERSION": "~4",
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "FUNCTIONS_WORKER_RUNTIME_VERSION": "3.12",
        "WEBSITE_SITE_NAME": "orders",
        "WEBSITE_INSTANCE_ID": "instance-1",
        "WEBSITE_OWNER_NAME": "sub-id+shop-rg-EastUS2webspace-Linux",
        "WEBSITE_OS": "linux",
        "COMPUTERNAME": "box",
        "DD_SERVERLESS_COMPAT_VERSION": "1.2.3",
    },
}
# The reference looks there for the application and ends when it finds none.
AZURE_ROOT = Path("/home/site/wwwroot")

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


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_hosts_give_spans_the_same_tags(name: str, tmp_path: Path) -> None:
    if name == "azure" and not (AZURE_ROOT / "host.json").exists():
        pytest.skip(f"the reference needs {AZURE_ROOT}/host.json")
    apim = span(name="azure.apim", service="apim")
    inputs = [
        Case("traces", encode([trace(3), trace(1)])),
        Case(
            "gateway", encode([[apim, span(trace_id=apim["trace_id"], parent_id=apim["span_id"])]])
        ),
        Case("no parent", encode([trace(2, parent_id=5)])),
    ]
    assert compare(inputs, ENVIRONMENTS[name], tmp_path) == {case.name: [] for case in inputs}


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
