"""The settings as text: what holds on this host, and the table for the documentation."""

from __future__ import annotations

from mini_agent.config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.config import Setting

_PREFACE = """\
# Configuration

Everything is set by environment variables; there is no file. `mini-agent config` prints what
holds on your host and where each value comes from. This page is the output of
`mini-agent config --markdown`.

- Spaces around a value do not count. An empty value means the default.
- Where several variables are named, the first that is set decides, also when it is empty: an
  empty `DD_PROXY_HTTPS` switches off a proxy that `HTTPS_PROXY` names.
- A value that does not fit is replaced by the default, with a warning in the log. Settings
  marked *vital* stop the start instead (exit status 2), because no other value would be safe.
- Sizes are bytes, or take a unit: `10 MiB`, `64KiB`, `20MB`.
- Which host this is, and the tags that follow from it, is read from the variables that Azure,
  AWS and Google set themselves. `GCE_METADATA_HOST` moves Google's metadata server.
"""


def show(config: Config) -> str:
    """Every setting with its value and source in columns, then the warnings; secrets masked."""
    rows = [
        (title, entry.variables[0], entry.show(config.value(entry)), config.source(entry))
        for title, entry in Config.entries()
    ]
    variable_width = max(len(variable) for _, variable, _, _ in rows)
    value_width = max(len(value) for _, _, value, _ in rows)
    lines: list[str] = []
    heading = ""
    for title, variable, value, source in rows:
        if title != heading:
            heading = title
            lines += ["", title] if lines else [title]
        lines.append(f"  {variable:{variable_width}}  {value:{value_width}}  {source}")
    if config.warnings:
        lines += ["", "Warnings", *(f"  {warning}" for warning in config.warnings)]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The page for the documentation: every setting, what it takes, its default, its purpose."""
    lines = [_PREFACE]
    heading = ""
    for title, entry in Config.entries():
        if title != heading:
            lines += [] if not heading else [""]
            heading = title
            lines += [f"## {title}", "", "| variable | what it is for | default | takes |"]
            lines.append("| --- | --- | --- | --- |")
        lines.append(_row(entry))
    return "\n".join(lines) + "\n"


def _row(entry: Setting) -> str:
    variables = ", ".join(f"`{variable}`" for variable in entry.variables)
    takes = entry.form.takes + (" (*vital*)" if entry.form.vital else "")
    return f"| {variables} | {entry.purpose} | {entry.show(entry.default)} | {takes} |"
