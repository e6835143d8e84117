"""Every setting: its variables, what it takes, its default, and what it is for.

A setting is one entry in Config and nothing else: reading, warning, printing and the table in
docs/configuration.md follow from it. The rules for all of them:

- Spaces around a value do not count. An empty value means the default.
- Of several variables the first that is set decides, also when it is empty.
- A value that does not fit is replaced by the default and warned about, because a function must
  not die of a typo in a port. Where any other value would send data to the wrong place or send
  none, the agent does not start, and says which variable is wrong.

Loaded before the port is bound: imports nothing but our own light modules.
"""

from __future__ import annotations

from mini_agent.early import TRACES_HOST, TRACES_PORT
from mini_agent.errors import ConfigError
from mini_agent.values import (
    API_KEY,
    GIB,
    HEADER_TEXT,
    HOST,
    KIB,
    LEVEL,
    MIB,
    NAMES,
    PATH,
    PATTERNS,
    PORT,
    PROXY,
    SITE,
    TAG_FILTERS,
    TAG_NAMES,
    TAGS,
    TEXT,
    URL,
    YES_NO,
    Amended,
    seconds,
    size,
    size_or_off,
    whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeVar

    from mini_agent.values import Form

    T = TypeVar("T")
    D = TypeVar("D")


class Heading:
    """Opens a group of settings."""

    __slots__ = ("title",)

    def __init__(self, title: str) -> None:
        self.title = title


class Setting:
    """One setting; on a Config it reads as its value.

    Attributes:
        name: The attribute of Config.
        variables: Environment variables, the one that decides first.
        form: What it takes.
        default: The value without any variable.
        purpose: What it is for.
    """

    __slots__ = ("default", "form", "name", "purpose", "variables")

    def __init__(self, variables: str, form: Form[Any], default: object, purpose: str) -> None:
        self.name = ""
        self.variables = variables.split()
        self.form = form
        self.default = default
        self.purpose = purpose

    def __set_name__(self, owner: type[Config], name: str) -> None:
        """Learn the attribute's name."""
        self.name = name

    def __get__(self, config: Config | None, owner: type[Config]) -> object:
        """The value on a Config, the setting itself on the class."""
        return self if config is None else config.value(self)

    def show(self, value: object) -> str:
        """A value as it may be printed anywhere."""
        return "not set" if value is None or value in ("", ()) else self.form.show(value)


def setting(variables: str, form: Form[T], default: D, purpose: str) -> T | D:
    """Declare a setting; typed as the value it reads as."""
    return Setting(variables, form, default, purpose)  # type: ignore[return-value]


class Config:
    """All settings as one value that does not change; made by `Config.read`.

    Attributes:
        warnings: One sentence for each value that was not taken as it stands.
    """

    __slots__ = ("_sources", "_values", "warnings")

    warnings: tuple[str, ...]
    _sources: dict[str, str]
    _values: dict[str, object]

    _intake = Heading("Where traces go")
    api_key = setting(
        "DD_API_KEY", API_KEY, None, "key of the account; without it all stays on this host"
    )
    site = setting("DD_SITE", SITE, "datadoghq.com", "domain of the intake")
    intake_url = setting(
        "DD_APM_DD_URL", URL, None, "where to send instead; trailing slashes do not count"
    )
    proxy_url = setting(
        "DD_PROXY_HTTPS HTTPS_PROXY https_proxy", PROXY, None, "proxy on the way to the intake"
    )
    no_proxy = setting(
        "DD_PROXY_NO_PROXY NO_PROXY no_proxy", NAMES, (), "hosts that are reached without the proxy"
    )
    compression_level = setting(
        "DD_APM_CONFIG_COMPRESSION_LEVEL", whole(1, 19), 1, "zstd level of what is sent"
    )
    flush_interval_s = setting(
        "MINI_AGENT_FLUSH_INTERVAL_S", seconds(0.1, 60), 3.0, "longest wait before a batch is sent"
    )

    _receiver = Heading("Where traces arrive")
    receiver_port = setting(
        "DD_APM_RECEIVER_PORT", PORT, TRACES_PORT, "TCP port; with 0 the system chooses a free one"
    )
    bind_host = setting("DD_BIND_HOST", HOST, TRACES_HOST, "address to listen on")
    non_local_traffic = setting(
        "DD_APM_NON_LOCAL_TRAFFIC", YES_NO, False, "listen on 0.0.0.0, whatever DD_BIND_HOST says"
    )
    receiver_socket = setting(
        "DD_APM_RECEIVER_SOCKET", PATH, None, "Unix socket to listen on, beside TCP"
    )
    tcp_fd = setting(
        "DD_APM_NET_RECEIVER_FD", whole(0, 65535), None, "TCP socket a launcher bound and passes on"
    )
    unix_fd = setting(
        "DD_APM_UNIX_RECEIVER_FD", whole(0, 65535), None, "the same for a Unix socket"
    )
    windows_pipe_name = setting(
        "DD_APM_WINDOWS_PIPE_NAME", TEXT, None, "named pipe to listen on, beside TCP; Windows only"
    )
    # Defaults and reasons of these four: listen/bind_pipe.py and listen/pipe.py.
    pipe_security_descriptor = setting(
        "DD_APM_WINDOWS_PIPE_SECURITY_DESCRIPTOR",
        TEXT,
        None,
        "who may open the pipe, as SDDL; else this user, SYSTEM and administrators",
    )
    pipe_buffer_bytes = setting(
        "DD_APM_WINDOWS_PIPE_BUFFER_SIZE",
        size(KIB, 16 * MIB),
        64 * KIB,
        "held for each direction of each client of the pipe",
    )
    pipe_instances = setting(
        "MINI_AGENT_PIPE_INSTANCES", whole(1, 64), 16, "instances of the pipe that wait for clients"
    )
    pipe_clients_max = setting(
        "MINI_AGENT_PIPE_CLIENTS_MAX",
        whole(1, 1000),
        64,
        "clients of the pipe served at a time; others wait",
    )
    # The Go agent's default. The reference takes 10 MiB, but ddtrace may send 20 MB at once.
    payload_bytes_max = setting(
        "DD_APM_MAX_PAYLOAD_SIZE", size(KIB, 512 * MIB), 25 * MIB, "largest request taken"
    )
    # The Go agent's default.
    connections_max = setting(
        "DD_APM_MAX_CONNECTIONS", whole(1, 65535), 1000, "connections open at a time"
    )
    receiver_timeout_s = setting(
        "DD_APM_RECEIVER_TIMEOUT", seconds(0.1, 3600), 30.0, "longest time a request may take"
    )

    _dropped = Heading("Which traces are dropped")
    ignore_resources = setting(
        "DD_APM_IGNORE_RESOURCES", PATTERNS, (), "drop traces whose root has such a resource"
    )
    filter_tags_require = setting(
        "DD_APM_FILTER_TAGS_REQUIRE", TAG_FILTERS, (), "keep only traces whose root has all these"
    )
    filter_tags_reject = setting(
        "DD_APM_FILTER_TAGS_REJECT", TAG_FILTERS, (), "drop traces whose root has one of these"
    )
    filter_tags_regex_require = setting(
        "DD_APM_FILTER_TAGS_REGEX_REQUIRE", TAG_FILTERS, (), "as REQUIRE; values are patterns"
    )
    filter_tags_regex_reject = setting(
        "DD_APM_FILTER_TAGS_REGEX_REJECT", TAG_FILTERS, (), "as REJECT; values are patterns"
    )

    _stats = Heading("What is counted")
    computes_stats = setting(
        "DD_AGENT_STATS_COMPUTATION_ENABLED",
        YES_NO,
        False,
        "count the spans of tracers that do not count them themselves",
    )
    env = setting("DD_ENV", TEXT, "none", "environment of stats that name none")

    _added = Heading("What traces are given")
    tags = setting("DD_TAGS", TAGS, "", "tags of everything sent from here")
    compat_version = setting(
        "DD_SERVERLESS_COMPAT_VERSION", TEXT, None, "becomes _dd.serverless_compat_version"
    )
    azure_resource_group = setting(
        "DD_AZURE_RESOURCE_GROUP", TEXT, None, "resource group; a Flex Consumption plan needs it"
    )
    external_env = setting(
        "DD_EXTERNAL_ENV", HEADER_TEXT, None, "becomes the header datadog-external-env"
    )

    _hidden = Heading("What is hidden in traces")
    replace_tags = setting(
        "DD_APM_REPLACE_TAGS", TEXT, None, "own rules, as a JSON list of name, pattern and repl"
    )
    url_query_removed = setting(
        "DD_APM_OBFUSCATION_HTTP_REMOVE_QUERY_STRING", YES_NO, False, "cut the query off URLs"
    )
    url_digits_removed = setting(
        "DD_APM_OBFUSCATION_HTTP_REMOVE_PATHS_WITH_DIGITS",
        YES_NO,
        False,
        "replace segments of a URL's path that have digits",
    )
    redis_obfuscated = setting(
        "DD_APM_OBFUSCATION_REDIS_ENABLED", YES_NO, False, "replace values in raw Redis commands"
    )
    redis_arguments_removed = setting(
        "DD_APM_OBFUSCATION_REDIS_REMOVE_ALL_ARGS", YES_NO, False, "replace all arguments there"
    )
    # What the reference cannot be told has the default of the Go agent, from here on.
    valkey_obfuscated = setting(
        "DD_APM_OBFUSCATION_VALKEY_ENABLED", YES_NO, True, "replace values in raw Valkey commands"
    )
    valkey_arguments_removed = setting(
        "DD_APM_OBFUSCATION_VALKEY_REMOVE_ALL_ARGS", YES_NO, False, "replace all arguments there"
    )
    memcached_obfuscated = setting(
        "DD_APM_OBFUSCATION_MEMCACHED_ENABLED", YES_NO, False, "cut values off Memcached commands"
    )
    # The reference's value, which cannot be changed there.
    memcached_command_kept = setting(
        "DD_APM_OBFUSCATION_MEMCACHED_KEEP_COMMAND", YES_NO, True, "keep the line of the command"
    )
    mongodb_obfuscated = setting(
        "DD_APM_OBFUSCATION_MONGODB_ENABLED", YES_NO, True, "replace values in MongoDB queries"
    )
    mongodb_kept = setting(
        "DD_APM_OBFUSCATION_MONGODB_KEEP_VALUES", TAG_NAMES, (), "keys whose values stay there"
    )
    mongodb_sql = setting(
        "DD_APM_OBFUSCATION_MONGODB_OBFUSCATE_SQL_VALUES",
        TAG_NAMES,
        (),
        "keys whose values are SQL there",
    )
    elasticsearch_obfuscated = setting(
        "DD_APM_OBFUSCATION_ELASTICSEARCH_ENABLED",
        YES_NO,
        True,
        "replace values in Elasticsearch queries",
    )
    elasticsearch_kept = setting(
        "DD_APM_OBFUSCATION_ELASTICSEARCH_KEEP_VALUES",
        TAG_NAMES,
        (),
        "keys whose values stay there",
    )
    elasticsearch_sql = setting(
        "DD_APM_OBFUSCATION_ELASTICSEARCH_OBFUSCATE_SQL_VALUES",
        TAG_NAMES,
        (),
        "keys whose values are SQL there",
    )
    opensearch_obfuscated = setting(
        "DD_APM_OBFUSCATION_OPENSEARCH_ENABLED",
        YES_NO,
        True,
        "replace values in OpenSearch queries",
    )
    opensearch_kept = setting(
        "DD_APM_OBFUSCATION_OPENSEARCH_KEEP_VALUES", TAG_NAMES, (), "keys whose values stay there"
    )
    opensearch_sql = setting(
        "DD_APM_OBFUSCATION_OPENSEARCH_OBFUSCATE_SQL_VALUES",
        TAG_NAMES,
        (),
        "keys whose values are SQL there",
    )
    cards_hidden = setting(
        "DD_APM_OBFUSCATION_CREDIT_CARDS_ENABLED", YES_NO, True, "replace card numbers in tags"
    )
    # The reference's value, which cannot be changed there: fewer other numbers are hit.
    cards_luhn = setting(
        "DD_APM_OBFUSCATION_CREDIT_CARDS_LUHN", YES_NO, True, "only those with a valid checksum"
    )
    cards_kept = setting(
        "DD_APM_OBFUSCATION_CREDIT_CARDS_KEEP_VALUES", TAG_NAMES, (), "tags that are let be"
    )
    stacks_removed = setting(
        "DD_APM_OBFUSCATION_REMOVE_STACK_TRACES", YES_NO, False, "replace stack traces of errors"
    )
    query_cache = setting(
        "DD_APM_OBFUSCATION_CACHE_ENABLED", YES_NO, True, "remember what became of SQL"
    )
    query_cache_size = setting(
        "DD_APM_OBFUSCATION_CACHE_MAX_SIZE", size(KIB, 256 * MIB), MIB, "most that is remembered"
    )

    _kept = Heading("What is kept on this host")
    journal_dir = setting(
        "MINI_AGENT_JOURNAL_DIR",
        PATH,
        None,
        "folder for what is not delivered yet; else one is chosen",
    )
    journal_bytes_max = setting(
        "MINI_AGENT_JOURNAL_BYTES_MAX",
        size_or_off(16 * MIB, 1024 * GIB),
        256 * MIB,
        "most the journal may hold; too little is raised",
    )
    memory_bytes_max = setting(
        "MINI_AGENT_MEMORY_BYTES_MAX",
        size(MIB, 16 * GIB),
        32 * MIB,
        "most that is held in memory where there is no journal",
    )
    store_path = setting(
        "MINI_AGENT_STORE_PATH", PATH, None, "file for traces to look at here; else one is chosen"
    )
    store_traces_max = setting(
        "MINI_AGENT_STORE_TRACES_MAX", whole(1, 1_000_000), 2000, "traces kept there"
    )

    _run = Heading("How it runs")
    log_level = setting("DD_LOG_LEVEL", LEVEL, "info", "least important lines that are printed")
    stop_grace_s = setting(
        "MINI_AGENT_STOP_GRACE_S", seconds(0, 600), 5.0, "longest time for the last deliveries"
    )
    exit_with_parent = setting(
        "MINI_AGENT_EXIT_WITH_PARENT", YES_NO, False, "stop when the process that started it ends"
    )
    parent_pid = setting(
        "MINI_AGENT_PARENT_PID",
        whole(1, 2**32 - 1),
        None,
        "that process, where its starter says it",
    )
    control_stdin = setting(
        "MINI_AGENT_CONTROL_STDIN", YES_NO, False, "stop when standard input ends"
    )

    def __init__(
        self, values: dict[str, object], sources: dict[str, str], warnings: tuple[str, ...]
    ) -> None:
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_sources", sources)
        object.__setattr__(self, "warnings", warnings)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: settings are read once."""
        raise AttributeError(f"settings do not change: {name}")

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Config:
        """Read every setting.

        Raises:
            ConfigError: A value does not fit and no other is safe; names the variable.
        """
        values: dict[str, object] = {}
        sources: dict[str, str] = {}
        warnings: list[str] = []
        for _, entry in cls.entries():
            values[entry.name], sources[entry.name] = _read_setting(entry, environ, warnings)
        return cls(values, sources, tuple(warnings))

    @classmethod
    def entries(cls) -> Iterator[tuple[str, Setting]]:
        """Every setting with the title of its group, in the order of this file."""
        title = ""
        for entry in vars(cls).values():
            if isinstance(entry, Heading):
                title = entry.title
            elif isinstance(entry, Setting):
                yield title, entry

    def value(self, entry: Setting) -> object:
        """The value of a setting."""
        return self._values[entry.name]

    def source(self, entry: Setting) -> str:
        """Where a value came from: a variable, "default", or the default instead of a variable."""
        return self._sources[entry.name]

    @property
    def receiver_host(self) -> str:
        """The address to listen on."""
        return "0.0.0.0" if self.non_local_traffic else self.bind_host


def _read_setting(
    entry: Setting, environ: Mapping[str, str], warnings: list[str]
) -> tuple[object, str]:
    """One setting's value and where it came from; adds to the warnings."""
    variable = next((name for name in entry.variables if name in environ), None)
    if variable is None:
        return entry.default, "default"
    text = environ[variable].strip()
    if not text:
        return entry.default, f"default, {variable} is empty"
    try:
        return entry.form.read(text), variable
    except Amended as amended:
        warnings.append(f"{variable}{amended}")
        return amended.value, variable
    except ValueError:
        complaint = f"{variable}{entry.form.complaint(text)}"
    if entry.form.vital:
        raise ConfigError(complaint)
    warnings.append(f"{complaint}; using the default ({entry.show(entry.default)})")
    return entry.default, f"default instead of {variable}"
