"""Which host this is, and what spans are told about it.

Two steps, because the ports are bound before anything may take time:

1. `detect` reads environment variables and nothing else. It never fails.
2. `verify` looks at the disk (Azure) or asks the metadata server (Google), once, for a bounded
   time, and returns the identity with what it learned.

A host that is not recognised is *local*: a developer's machine, a container of one's own. What
is odd about a host becomes a warning and never the end of the agent, with one exception that the
reference has too: a Flex Consumption plan that does not say its resource group.

Loaded before the port is bound: imports nothing but our own errors.

Source: reference-agent 1.2, 1.3 and 4.6; docs/differences.md says where this differs.
"""

from __future__ import annotations

import sys

from mini_agent.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

AZURE_FUNCTION = "azure_function"
LAMBDA = "lambda"
CLOUD_FUNCTION = "cloud_function"
AZURE_SPRING_APP = "azure_spring_app"
LOCAL = "local"

# Value of `_dd.origin` and `origin`. Source: reference-agent 4.6.
_ORIGINS = {
    AZURE_FUNCTION: "azurefunction",
    LAMBDA: "lambda",
    CLOUD_FUNCTION: "cloudfunction",
    AZURE_SPRING_APP: "azurespringapp",
    LOCAL: None,
}

_SPRING_NAME = "ASCSVCRT_SPRING__APPLICATION__NAME"

# Folders looked into for host.json or function.json before giving up. Deployed packages can hold
# tens of thousands, on a network drive.
FOLDERS_MAX = 500
# Folders below the root that are looked into: the reference looks one level deep, which misses
# functions that are grouped in folders.
DEPTH_MAX = 2


class Identity:
    """Which host this is.

    Attributes:
        environment: One of the five names above.
        application: Name of the function or application, or None.
        origin: What spans from this host have as their origin, or None.
        root_tags: Tags for the root span of each trace.
        span_tags: Tags for every span.
        azure_tags: Tags for every span that is not named azure.apim.
        flex_without_group: A Flex Consumption plan whose resource group nobody said.
        warnings: One sentence for each oddity.
    """

    __slots__ = (
        "application",
        "azure_tags",
        "environment",
        "flex_without_group",
        "origin",
        "root_tags",
        "span_tags",
        "warnings",
    )

    def __init__(
        self,
        environment: str,
        application: str | None,
        span_tags: Mapping[str, str],
        azure_tags: Mapping[str, str],
        flex_without_group: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.environment = environment
        self.application = application
        self.origin = _ORIGINS[environment]
        self.root_tags = _root_tags(environment, application, self.origin)
        self.span_tags = span_tags
        self.azure_tags = azure_tags
        self.flex_without_group = flex_without_group
        self.warnings = warnings

    def learned(self, tags: Mapping[str, str], *warnings: str) -> Identity:
        """The same host with further tags for every span and further warnings."""
        return Identity(
            self.environment,
            self.application,
            {**self.span_tags, **tags},
            self.azure_tags,
            self.flex_without_group,
            (*self.warnings, *warnings),
        )


# Step 1: environment variables


def detect(environ: Mapping[str, str]) -> Identity:
    """Recognise the host by its environment variables.

    Of several platforms that match, the first in this order is taken, with a warning: the later
    in the list, the easier its variables get somewhere else.

    1. Azure Functions: three variables that only its runtime sets.
    2. Lambda: two variables with a prefix that is reserved there.
    3. Cloud Functions: K_SERVICE is set by anything built on Knative, and people give names like
       FUNCTION_NAME to variables of their own.
    4. Azure Spring Apps: one variable, which a Spring application may be given anywhere.
    """
    warnings: list[str] = []
    found = _platforms(environ, warnings)
    environment, application = found[0] if found else (LOCAL, None)
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        warnings.append(
            f"the environment variables fit several hosts ({names}); taken for {environment}"
        )
    return Identity(
        environment,
        application,
        _span_tags(environment, environ),
        _azure_tags(environ),
        environment == AZURE_FUNCTION and _is_flex(environ) and not _says_group(environ),
        tuple(warnings),
    )


def _platforms(environ: Mapping[str, str], warnings: list[str]) -> list[tuple[str, str]]:
    """Every platform that matches, with the application's name, in order of preference."""
    found = []

    def look(environment: str, triggers: tuple[str, ...], name: str) -> bool:
        if not all(trigger in environ for trigger in triggers):
            return False
        application = environ.get(name, "").strip()
        if application:
            found.append((environment, application))
        else:
            warnings.append(
                f"{' and '.join(triggers)} say this is {environment}, but {name} is not set; "
                f"not counted"
            )
        return bool(application)

    look(
        AZURE_FUNCTION,
        ("FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_RUNTIME"),
        "WEBSITE_SITE_NAME",
    )
    look(LAMBDA, ("AWS_LAMBDA_INITIALIZATION_TYPE",), "AWS_LAMBDA_FUNCTION_NAME")
    # Newer runtimes set the first pair, older ones the second.
    if not look(CLOUD_FUNCTION, ("K_SERVICE", "FUNCTION_TARGET"), "K_SERVICE"):
        look(CLOUD_FUNCTION, ("FUNCTION_NAME", "GCP_PROJECT"), "FUNCTION_NAME")
    look(AZURE_SPRING_APP, (_SPRING_NAME,), _SPRING_NAME)
    return found


def _root_tags(environment: str, application: str | None, origin: str | None) -> dict[str, str]:
    if origin is None or application is None:
        return {}
    if environment == AZURE_SPRING_APP:
        return {"origin": origin}
    return {"origin": origin, "functionname": application}


def _span_tags(environment: str, environ: Mapping[str, str]) -> dict[str, str]:
    sources = {"_dd.serverless_compat_version": "DD_SERVERLESS_COMPAT_VERSION"}
    if environment == AZURE_SPRING_APP:
        sources |= {"asa.hostname": "HOSTNAME", "asa.name": _SPRING_NAME}
    tags = {tag: environ.get(variable, "").strip() for tag, variable in sources.items()}
    return {tag: value for tag, value in tags.items() if value}


def _azure_tags(environ: Mapping[str, str]) -> dict[str, str]:
    """What Azure says about a function; what it does not say is left out."""

    def first(*variables: str) -> str:
        values = (environ.get(variable, "").strip() for variable in variables)
        return next(filter(None, values), "")

    if not first("FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION"):
        return {}
    owner = first("WEBSITE_OWNER_NAME")
    subscription = owner.partition("+")[0].strip()
    site = first("WEBSITE_SITE_NAME")
    group = first("DD_AZURE_RESOURCE_GROUP", "WEBSITE_RESOURCE_GROUP")
    if not group and not _is_flex(environ):
        group = _group_of(owner)
    resource = ""
    if subscription and group and site:
        resource = (
            f"/subscriptions/{subscription}/resourcegroups/{group}"
            f"/providers/microsoft.web/sites/{site}"
        ).lower()
    instance = first("COMPUTERNAME", "WEBSITE_POD_NAME", "CONTAINER_NAME")
    tags = {
        "aas.environment.instance_id": first("WEBSITE_INSTANCE_ID"),
        "aas.environment.instance_name": instance,
        "aas.environment.os": first("WEBSITE_OS") or _system_name(),
        "aas.environment.runtime": first("FUNCTIONS_WORKER_RUNTIME"),
        "aas.environment.runtime_version": first("FUNCTIONS_WORKER_RUNTIME_VERSION"),
        "aas.environment.function_runtime": first("FUNCTIONS_EXTENSION_VERSION"),
        "aas.resource.group": group,
        "aas.resource.id": resource,
        "aas.site.kind": "functionapp",
        "aas.site.name": site,
        "aas.site.type": "function",
        "aas.subscription.id": subscription,
    }
    return {tag: value for tag, value in tags.items() if value}


def _group_of(owner: str) -> str:
    """The resource group in a value like `subscription+group-regionwebspace-Linux`, or "".

    Names may hold `+` and `-` themselves: the last `+` counts after which a group can follow,
    and then the last `-` before the region.
    """
    plus = owner.rfind("+")
    while plus > 0:
        rest = owner[plus + 1 :]
        # The region between `-` and `webspace` has at least one letter.
        hyphen = rest.rfind("-", 1, max(rest.rfind("webspace") - 1, 0))
        if hyphen > 0:
            return rest[:hyphen]
        plus = owner.rfind("+", 0, plus)
    return ""


def _system_name() -> str:
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)


def _is_flex(environ: Mapping[str, str]) -> bool:
    return environ.get("WEBSITE_SKU", "").strip() == "FlexConsumption"


def _says_group(environ: Mapping[str, str]) -> bool:
    # As in the reference an empty value says that there is none to say.
    return "DD_AZURE_RESOURCE_GROUP" in environ


# Step 2: the disk and the metadata server


def verify(identity: Identity, environ: Mapping[str, str], root: str | None = None) -> Identity:
    """Complete an identity with what only the host itself can say.

    Blocks: on Google Cloud as long as `metadata.ask` may, elsewhere for reading a few folders.

    Args:
        root: Folder of the deployed Azure function, if not where Azure puts it.

    Raises:
        ConfigError: A Flex Consumption plan without DD_AZURE_RESOURCE_GROUP.
    """
    if identity.flex_without_group:
        raise ConfigError(
            "DD_AZURE_RESOURCE_GROUP is not set; a Flex Consumption plan needs it, because Azure "
            "does not tell the agent which resource group this is"
        )
    if identity.environment == AZURE_FUNCTION:
        return _verify_azure(identity, root or _azure_root())
    if identity.environment == CLOUD_FUNCTION:
        return _verify_google(identity, environ)
    return identity


def _azure_root() -> str:
    return r"C:\home\site\wwwroot" if sys.platform == "win32" else "/home/site/wwwroot"


def _verify_azure(identity: Identity, root: str) -> Identity:
    if _holds_function(root):
        return identity
    return identity.learned({}, f"neither host.json nor function.json is in or below {root}")


def _holds_function(root: str) -> bool:
    """Whether a function is deployed in a folder; what cannot be read does not count."""
    import os

    folders = [(root, 0)]
    # Grows while it is walked: breadth first, so that the usual place is found at once.
    for path, depth in folders:
        try:
            with os.scandir(path) as listing:
                entries = [(entry.name, entry.path, entry.is_dir()) for entry in listing]
        except OSError:
            continue
        if any(name in ("host.json", "function.json") for name, _, _ in entries):
            return True
        if depth < DEPTH_MAX:
            below = [path for name, path, is_dir in entries if is_dir and name != "node_modules"]
            folders += [(path, depth + 1) for path in below[: FOLDERS_MAX - len(folders)]]
    return False


def _verify_google(identity: Identity, environ: Mapping[str, str]) -> Identity:
    # Imported here: it needs sockets, HTTP and JSON.
    from mini_agent import metadata

    place = metadata.ask(environ.get("GCE_METADATA_HOST", "").strip() or metadata.HOST)
    name = f"projects/{place.project}/locations/{place.region}/functions/{identity.application}"
    tags = {
        "gcrfx.location": place.region,
        "gcrfx.project_id": place.project,
        "gcrfx.resource_name": name,
    }
    return identity.learned(tags, *place.warnings)
