from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mini_agent.config import Config
from mini_agent.errors import ConfigError

ENTRIES = [entry for _, entry in Config.entries()]
MIB = 1024 * 1024


def source(config: Config, variable: str) -> str:
    entry = next(entry for entry in ENTRIES if variable in entry.variables)
    return config.source(entry)


def test_defaults_are_what_the_field_expects():
    config = Config.read({})
    assert config.api_key is None
    assert config.site == "datadoghq.com"
    assert (config.receiver_host, config.receiver_port) == ("127.0.0.1", 8126)
    assert config.payload_bytes_max == 25 * MIB
    assert config.journal_bytes_max == 256 * MIB
    assert config.flush_interval_s == 3.0
    assert config.log_level == "info"
    assert config.warnings == ()


def test_values_are_trimmed_and_an_empty_one_means_the_default():
    config = Config.read({"DD_API_KEY": " key \n", "DD_SITE": "  ", "DD_LOG_LEVEL": " DEBUG "})
    assert config.api_key == "key"
    assert config.site == "datadoghq.com"
    assert config.log_level == "debug"
    assert config.warnings == ()
    assert Config.read({"DD_API_KEY": " "}).api_key is None


def test_a_value_that_does_not_fit_is_replaced_and_warned_about():
    config = Config.read({"DD_APM_RECEIVER_PORT": "70000"})
    assert config.receiver_port == 8126
    assert source(config, "DD_APM_RECEIVER_PORT") == "default instead of DD_APM_RECEIVER_PORT"
    (warning,) = config.warnings
    assert "DD_APM_RECEIVER_PORT='70000'" in warning
    assert "8126" in warning


def test_a_value_that_is_taken_with_a_change_is_warned_about():
    config = Config.read({"MINI_AGENT_JOURNAL_BYTES_MAX": "1MiB", "DD_TAGS": "secret a:1"})
    assert config.journal_bytes_max == 16 * MIB
    assert config.tags == "a:1"
    assert source(config, "DD_TAGS") == "DD_TAGS"
    assert len(config.warnings) == 2
    assert "secret" not in "".join(config.warnings)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DD_SITE", "https://datadoghq.eu"),
        ("DD_APM_DD_URL", "intake.example"),
        ("DD_PROXY_HTTPS", "socks5://me:hunter2@proxy"),
        ("https_proxy", "http://me:hunter2@"),
        ("DD_API_KEY", "hunter2 and more"),
        ("DD_API_KEY", "\udcff"),
    ],
)
def test_where_no_other_value_is_safe_the_variable_is_named(variable, text):
    with pytest.raises(ConfigError, match=f"^{variable}") as raised:
        Config.read({variable: text})
    assert "hunter2" not in str(raised.value)


def test_of_several_variables_the_first_that_is_set_decides():
    environ = {"https_proxy": "http://c:1"}
    assert Config.read(environ).proxy_url == "http://c:1"
    environ["HTTPS_PROXY"] = "http://b:1"
    assert Config.read(environ).proxy_url == "http://b:1"
    environ["DD_PROXY_HTTPS"] = "http://a:1"
    config = Config.read(environ)
    assert config.proxy_url == "http://a:1"
    assert source(config, "HTTPS_PROXY") == "DD_PROXY_HTTPS"


def test_an_empty_first_variable_switches_the_others_off():
    config = Config.read({"DD_PROXY_HTTPS": "", "HTTPS_PROXY": "http://b:1"})
    assert config.proxy_url is None
    assert source(config, "HTTPS_PROXY") == "default, DD_PROXY_HTTPS is empty"


def test_hosts_without_proxy_are_separated_by_commas_or_spaces():
    assert Config.read({"NO_PROXY": "localhost, .example 10.0.0.0/8"}).no_proxy == (
        "localhost",
        ".example",
        "10.0.0.0/8",
    )


def test_non_local_traffic_means_every_address():
    environ = {"DD_BIND_HOST": "192.0.2.1", "DD_APM_NON_LOCAL_TRAFFIC": "true"}
    assert Config.read(environ).receiver_host == "0.0.0.0"
    environ["DD_APM_NON_LOCAL_TRAFFIC"] = "false"
    assert Config.read(environ).receiver_host == "192.0.2.1"


def test_port_zero_and_a_journal_that_is_off_are_values():
    config = Config.read({"DD_APM_RECEIVER_PORT": "0", "MINI_AGENT_JOURNAL_BYTES_MAX": "0"})
    assert config.receiver_port == 0
    assert config.journal_bytes_max == 0
    assert config.warnings == ()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_default_as_it_is_shown_reads_as_itself(entry):
    if entry.default not in (None, "", ()):
        assert entry.form.read(entry.show(entry.default)) == entry.default


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_setting_is_explained_and_named_after_its_owner(entry):
    assert entry.purpose
    assert all(variable == variable.strip() for variable in entry.variables)
    assert entry.variables[0].startswith(("DD_", "MINI_AGENT_"))


def test_settings_do_not_change():
    config = Config.read({})
    with pytest.raises(AttributeError, match="site"):
        config.site = "elsewhere"
    with pytest.raises(AttributeError):
        config.another = 1


def test_importing_the_settings_loads_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import mini_agent.config; "
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        # What chooses the plain twin is a module too.
        env={key: text for key, text in os.environ.items() if key != "MINI_AGENT_PLAIN"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    ours = {"mini_agent", "mini_agent.config", "mini_agent.errors", "mini_agent.values"}
    # Knows the place where tracers look.
    ours.add("mini_agent.early")
    assert set(loaded) <= {"__future__", "_socket", "errno", *ours}
