from __future__ import annotations

from pathlib import Path

from mini_agent import config_page
from mini_agent.config import Config

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_documentation_is_what_the_settings_say():
    # If this fails: mini-agent config --markdown > docs/configuration.md
    assert DOCUMENT.read_text(encoding="utf-8") == config_page.markdown()


def test_every_setting_is_shown_with_its_value_and_source():
    page = config_page.show(Config.read({"DD_SITE": "datadoghq.eu", "NO_PROXY": "a,b"}))
    rows = {line.split()[0]: line.split() for line in page.splitlines() if line.startswith("  ")}
    for _, entry in Config.entries():
        assert entry.variables[0] in rows
    assert rows["DD_SITE"] == ["DD_SITE", "datadoghq.eu", "DD_SITE"]
    assert rows["DD_APM_RECEIVER_PORT"][1:] == ["8126", "default"]
    assert rows["DD_PROXY_NO_PROXY"][1:] == ["a", "b", "NO_PROXY"]
    assert "Warnings" not in page


def test_secrets_are_masked_on_the_page():
    environ = {"DD_API_KEY": "0123456789abcdef", "HTTPS_PROXY": "http://me:hunter2@proxy:3128"}
    page = config_page.show(Config.read(environ))
    assert "hunter2" not in page
    assert "http://****@proxy:3128" in page
    assert "0123456789" not in page
    assert "************cdef" in page


def test_warnings_come_last():
    page = config_page.show(Config.read({"DD_APM_MAX_CONNECTIONS": "many"}))
    assert page.splitlines()[-2:] == [
        "Warnings",
        "  DD_APM_MAX_CONNECTIONS='many' is not a whole number, 1 to 65535; "
        "using the default (1000)",
    ]
