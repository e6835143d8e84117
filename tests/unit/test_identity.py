from __future__ import annotations

import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.loopback import WAIT_S_MAX
from kit.metadata import MetadataServer

from mini_agent import identity, metadata
from mini_agent.errors import ConfigError

AZURE = {
    "FUNCTIONS_EXTENSION_VERSION": "~4",
    "FUNCTIONS_WORKER_RUNTIME": "python",
    "WEBSITE_SITE_NAME": "Shop",
}
LAMBDA = {"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_FUNCTION_NAME": "pay"}
GOOGLE = {"K_SERVICE": "resize", "FUNCTION_TARGET": "main"}
GOOGLE_OLD = {"FUNCTION_NAME": "resize-old", "GCP_PROJECT": "shop"}
SPRING = {"ASCSVCRT_SPRING__APPLICATION__NAME": "orders"}


@pytest.mark.parametrize(
    ("environ", "environment", "application", "origin"),
    [
        ({}, "local", None, None),
        (AZURE, "azure_function", "Shop", "azurefunction"),
        (LAMBDA, "lambda", "pay", "lambda"),
        (GOOGLE, "cloud_function", "resize", "cloudfunction"),
        (GOOGLE_OLD, "cloud_function", "resize-old", "cloudfunction"),
        (GOOGLE | GOOGLE_OLD, "cloud_function", "resize", "cloudfunction"),
        (SPRING, "azure_spring_app", "orders", "azurespringapp"),
    ],
)
def test_each_host_is_known_by_its_variables(environ, environment, application, origin):
    host = identity.detect(environ)
    assert (host.environment, host.application, host.origin) == (environment, application, origin)
    assert host.warnings == ()


@pytest.mark.parametrize("environ", [AZURE, LAMBDA, GOOGLE, GOOGLE_OLD, SPRING])
def test_half_of_what_tells_a_host_is_not_enough(environ):
    for missing in environ:
        rest = {name: text for name, text in environ.items() if name != missing}
        assert identity.detect(rest).environment == "local"


@pytest.mark.parametrize("environ", [AZURE, LAMBDA])
@pytest.mark.parametrize("name", [None, "", " "])
def test_a_host_without_the_name_of_its_application_is_not_counted_and_said(environ, name):
    *_, variable = environ
    given = {**environ, variable: name} if name is not None else dict(environ)
    if name is None:
        del given[variable]
    host = identity.detect(given)
    assert host.environment == "local"
    (warning,) = host.warnings
    assert variable in warning


@pytest.mark.parametrize("trigger", list(AZURE)[:2])
def test_an_empty_trigger_counts_as_set(trigger):
    assert identity.detect({**AZURE, trigger: ""}).environment == "azure_function"


@pytest.mark.parametrize(
    ("environ", "environment"),
    [
        (SPRING | GOOGLE | LAMBDA | AZURE, "azure_function"),
        (SPRING | GOOGLE | LAMBDA, "lambda"),
        (SPRING | GOOGLE_OLD, "cloud_function"),
    ],
)
def test_of_several_hosts_the_one_hardest_to_imitate_is_taken_and_said(environ, environment):
    host = identity.detect(environ)
    assert host.environment == environment
    (warning,) = host.warnings
    assert "several hosts" in warning
    assert warning.endswith(f"taken for {environment}")


@pytest.mark.parametrize(
    ("environ", "tags"),
    [
        ({}, {}),
        (AZURE, {"origin": "azurefunction", "functionname": "Shop"}),
        (LAMBDA, {"origin": "lambda", "functionname": "pay"}),
        (GOOGLE, {"origin": "cloudfunction", "functionname": "resize"}),
        (SPRING, {"origin": "azurespringapp"}),
    ],
)
def test_root_spans_learn_origin_and_function(environ, tags):
    assert identity.detect(environ).root_tags == tags


def test_every_span_learns_the_wrapper_version_and_the_spring_instance():
    version = {"DD_SERVERLESS_COMPAT_VERSION": "1.2.3", "HOSTNAME": "orders-7"}
    assert identity.detect(version).span_tags == {"_dd.serverless_compat_version": "1.2.3"}
    assert identity.detect(SPRING | version).span_tags == {
        "_dd.serverless_compat_version": "1.2.3",
        "asa.hostname": "orders-7",
        "asa.name": "orders",
    }
    assert identity.detect(SPRING).span_tags == {"asa.name": "orders"}


def test_azure_tags_say_what_azure_says():
    environ = AZURE | {
        "COMPUTERNAME": " ",
        "WEBSITE_POD_NAME": " pod-1 ",
        "CONTAINER_NAME": "box",
        "WEBSITE_INSTANCE_ID": "i-1",
        "WEBSITE_OS": "linux",
        "FUNCTIONS_WORKER_RUNTIME_VERSION": "3.11",
        "WEBSITE_OWNER_NAME": "sub-1+my-group-EastUSwebspace-Linux",
    }
    assert identity.detect(environ).azure_tags == {
        "aas.environment.instance_id": "i-1",
        "aas.environment.instance_name": "pod-1",
        "aas.environment.os": "linux",
        "aas.environment.runtime": "python",
        "aas.environment.runtime_version": "3.11",
        "aas.environment.function_runtime": "~4",
        "aas.resource.group": "my-group",
        "aas.resource.id": (
            "/subscriptions/sub-1/resourcegroups/my-group/providers/microsoft.web/sites/shop"
        ),
        "aas.site.kind": "functionapp",
        "aas.site.name": "Shop",
        "aas.site.type": "function",
        "aas.subscription.id": "sub-1",
    }


@pytest.mark.parametrize(
    ("platform", "name"), [("linux", "linux"), ("win32", "windows"), ("darwin", "macos")]
)
def test_azure_tags_leave_out_what_azure_does_not_say(monkeypatch, platform, name):
    monkeypatch.setattr(sys, "platform", platform)
    assert identity.detect({"FUNCTIONS_WORKER_RUNTIME": "node"}).azure_tags == {
        "aas.environment.os": name,
        "aas.environment.runtime": "node",
        "aas.site.kind": "functionapp",
        "aas.site.type": "function",
    }


@pytest.mark.parametrize(
    "environ", [{}, {"WEBSITE_SITE_NAME": "shop"}, {"FUNCTIONS_WORKER_RUNTIME": "  "}]
)
def test_only_a_functions_runtime_brings_azure_tags(environ):
    assert identity.detect(environ).azure_tags == {}


@pytest.mark.parametrize(
    ("environ", "group"),
    [
        ({"DD_AZURE_RESOURCE_GROUP": "said", "WEBSITE_RESOURCE_GROUP": "site"}, "said"),
        ({"DD_AZURE_RESOURCE_GROUP": " ", "WEBSITE_RESOURCE_GROUP": "site"}, "site"),
        ({"WEBSITE_OWNER_NAME": "s+g-Westwebspace"}, "g"),
        ({"WEBSITE_OWNER_NAME": "s+g-Westwebspace", "WEBSITE_SKU": "FlexConsumption"}, None),
        ({"WEBSITE_OWNER_NAME": "s+gWestwebspace"}, None),
        ({"WEBSITE_OWNER_NAME": "s"}, None),
    ],
)
def test_the_resource_group_is_the_said_one_or_taken_from_the_owner(environ, group):
    assert identity.detect(AZURE | environ).azure_tags.get("aas.resource.group") == group


@given(parts=st.lists(st.sampled_from(["webspace", "-Linux", "+", "-", "a", "group"]), max_size=12))
def test_the_resource_group_is_found_as_the_reference_finds_it(parts):
    owner = "".join(parts)
    match = re.search(r".+\+(.+)-.+webspace(-Linux)?", owner)
    tags = identity.detect(AZURE | {"WEBSITE_OWNER_NAME": owner}).azure_tags
    assert tags.get("aas.resource.group") == (match[1] if match else None)


def test_a_flex_plan_that_does_not_say_its_group_cannot_start():
    environ = AZURE | {"WEBSITE_SKU": "FlexConsumption"}
    host = identity.detect(environ)
    assert host.flex_without_group
    with pytest.raises(ConfigError, match=r"^DD_AZURE_RESOURCE_GROUP"):
        identity.verify(host, environ)


@pytest.mark.parametrize(
    "environ",
    [
        AZURE | {"WEBSITE_SKU": "FlexConsumption", "DD_AZURE_RESOURCE_GROUP": ""},
        AZURE | {"WEBSITE_SKU": "Dynamic"},
        {"WEBSITE_SKU": "FlexConsumption"},
    ],
)
def test_only_a_flex_plan_in_azure_must_say_its_group(environ):
    assert not identity.detect(environ).flex_without_group


@pytest.mark.parametrize("place", ["host.json", "fn/function.json", "src/fn/function.json"])
def test_a_deployed_function_is_found_up_to_two_folders_down(tmp_path, place):
    (tmp_path / "other").mkdir()
    deployed = tmp_path / place
    deployed.parent.mkdir(parents=True, exist_ok=True)
    deployed.touch()
    host = identity.verify(identity.detect(AZURE), AZURE, str(tmp_path))
    assert host.warnings == ()


@pytest.mark.parametrize("place", ["a/b/c/host.json", "node_modules/host.json", "readme.md"])
def test_no_deployed_function_is_a_warning(tmp_path, place):
    elsewhere = tmp_path / place
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    elsewhere.touch()
    host = identity.verify(identity.detect(AZURE), AZURE, str(tmp_path))
    (warning,) = host.warnings
    assert "host.json" in warning
    assert host.environment == "azure_function"
    assert host.azure_tags["aas.site.name"] == "Shop"


def test_a_root_that_is_not_there_is_a_warning(tmp_path):
    host = identity.verify(identity.detect(AZURE), AZURE, str(tmp_path / "nowhere"))
    assert len(host.warnings) == 1


def test_what_cannot_be_read_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "function.json").touch()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("a"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert identity.verify(identity.detect(AZURE), AZURE, str(tmp_path)).warnings == ()


def test_the_search_for_a_function_is_bounded(tmp_path, monkeypatch):
    for number in range(8):
        (tmp_path / f"folder{number}").mkdir()
    monkeypatch.setattr(identity, "FOLDERS_MAX", 4)
    seen = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(path) or scandir(path))
    identity.verify(identity.detect(AZURE), AZURE, str(tmp_path))
    assert len(seen) == 4


def test_a_google_function_learns_its_region_and_project(monkeypatch):
    monkeypatch.setattr(metadata, "ATTEMPT_S_MAX", WAIT_S_MAX)
    with MetadataServer() as server:
        environ = GOOGLE | {
            "GCE_METADATA_HOST": server.host,
            "DD_SERVERLESS_COMPAT_VERSION": "1",
        }
        host = identity.verify(identity.detect(environ), environ)
    assert host.span_tags == {
        "_dd.serverless_compat_version": "1",
        "gcrfx.location": "us-east1",
        "gcrfx.project_id": "shop",
        "gcrfx.resource_name": "projects/shop/locations/us-east1/functions/resize",
    }
    assert host.root_tags == {"origin": "cloudfunction", "functionname": "resize"}
    assert host.warnings == ()


def test_a_google_function_without_metadata_runs_and_says_unknown():
    with MetadataServer() as server:
        server.keep_silent()
        environ = GOOGLE | SPRING | {"GCE_METADATA_HOST": server.host}
        host = identity.verify(identity.detect(environ), environ)
    assert host.span_tags["gcrfx.resource_name"] == (
        "projects/unknown/locations/unknown/functions/resize"
    )
    # What was odd before is not forgotten.
    assert ["several" in warning for warning in host.warnings] == [True, False]


@pytest.mark.parametrize("environ", [{}, LAMBDA, SPRING])
def test_other_hosts_have_nothing_to_verify(environ):
    host = identity.detect(environ)
    assert identity.verify(host, environ) is host
