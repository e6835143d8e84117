"""The command line.

`mini-agent run` is what a platform starts, and it has a promise to keep: the port accepts before
anything heavy is imported. So this module and all that `run` needs until then import next to
nothing, and `run` without further words does not even load the parser of arguments.
"""

from __future__ import annotations

import errno
import os
import sys

from mini_agent import __version__
from mini_agent.errors import AgentError, ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mini_agent.config import Config
    from mini_agent.doors import Doors
    from mini_agent.identity import Identity
    from mini_agent.values import Form

COULD_NOT_START = 1
BAD_SETTING = 2

_ABOUT = """\
An agent that takes traces from Datadog tracers on this host and delivers them, and loses none
that it acknowledged.
"""

_MORE = """\
settings most people need, from the environment:
  DD_API_KEY                   key of the account; without it traces stay on this host
  DD_SITE                      domain of the account, such as datadoghq.eu
  DD_APM_RECEIVER_PORT         port for tracers (8126)
  DD_LOG_LEVEL                 error, warn, info or debug (info)
  DD_TAGS                      tags of everything sent from here, such as team:web
  MINI_AGENT_JOURNAL_DIR       folder for what is not delivered yet
`mini-agent config` prints all of them.

exit status:
  0  stopped, and nothing was dropped
  1  could not start
  2  a setting or the command line is wrong
  3  stopped, but something that was acknowledged had to be dropped
  4  a part of the agent died
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments == ["run"]:
            return _run(os.environ)
        return _run_command(arguments)
    except AgentError as error:
        print(f"mini-agent: {error}", file=sys.stderr)
        return BAD_SETTING if isinstance(error, ConfigError) else COULD_NOT_START


def _run(environ: Mapping[str, str]) -> int:
    """Bind first, import the rest after."""
    import gc

    # Importing makes next to no garbage, and looking for it takes a twentieth of the time. What is
    # loaded then stays, and no later collection need look at it and hold the loop up.
    gc.disable()
    try:
        config, host, doors = _open(environ)
        from mini_agent import agent

        gc.freeze()
    finally:
        gc.enable()
    try:
        return agent.run(config, host, doors)
    finally:
        doors.close()


def _open(environ: Mapping[str, str]) -> tuple[Config, Identity, Doors]:
    """The port of plain settings, then the settings and everything else that listens."""
    from mini_agent.early import bind_plain

    early = bind_plain(environ)
    try:
        from mini_agent.config import Config
        from mini_agent.doors import open_doors
        from mini_agent.identity import detect

        config = Config.read(environ)
        return config, detect(environ), open_doors(config, early)
    finally:
        # What was not taken over is given back.
        if early is not None:
            early.close()


def _run_command(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    if command is _run_with_options:
        return command(options)
    try:
        status = command(options)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):
            raise
        # Whoever read our output (`| head`) has enough; Windows calls that an invalid argument.
        # Python flushes once more when it ends, and that must not fail.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    import argparse

    from mini_agent.values import LEVEL, PORT, whole

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="mini-agent", description=_ABOUT, epilog=_MORE, formatter_class=raw
    )
    about = "print the version, and whether the compiled modules run or the plain ones"
    parser.add_argument("--version", nargs=0, action=_version_action(), help=about)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="take traces and deliver them until told to stop")
    port, level = _fitting(PORT), _fitting(LEVEL)
    run.add_argument("--port", type=port, metavar="N", help="instead of DD_APM_RECEIVER_PORT")
    run.add_argument("--log-level", type=level, metavar="LEVEL", help="instead of DD_LOG_LEVEL")
    run.set_defaults(command=_run_with_options)

    config = commands.add_parser("config", help="print every setting and where it comes from")
    config.add_argument("--markdown", action="store_true", help="print the documentation's page")
    config.set_defaults(command=_print_config)

    traces = commands.add_parser("traces", help="list the traces kept on this host, or print one")
    count = _fitting(whole(1, 1_000_000))
    traces.add_argument("id", nargs="?", metavar="ID", help="the trace to print")
    traces.add_argument("--limit", type=count, default="20", metavar="N", help="at most N (20)")
    traces.add_argument("--service", metavar="NAME", help="only traces of this service")
    traces.add_argument("--store", metavar="PATH", help="instead of MINI_AGENT_STORE_PATH")
    traces.set_defaults(command=_print_traces)
    return parser


def _version_action() -> type[argparse.Action]:
    import argparse

    class PrintVersion(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            # Imported here: `run` with options must not wait for it.
            from mini_agent import twins

            sys.stdout.write(f"mini-agent {__version__} ({twins.running()})\n")
            parser.exit()

    return PrintVersion


def _fitting(form: Form[Any]) -> Callable[[str], str]:
    """A check that the parser of arguments applies; keeps the text."""
    import argparse

    def check(text: str) -> str:
        try:
            form.read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {form.takes}") from None
        return text

    return check


def _run_with_options(options: argparse.Namespace) -> int:
    given = {"DD_APM_RECEIVER_PORT": options.port, "DD_LOG_LEVEL": options.log_level}
    return _run({**os.environ, **{name: text for name, text in given.items() if text}})


def _print_config(options: argparse.Namespace) -> int:
    from mini_agent import config_page
    from mini_agent.config import Config

    page = config_page.markdown() if options.markdown else config_page.show(Config.read(os.environ))
    sys.stdout.write(page)
    return 0


def _print_traces(options: argparse.Namespace) -> int:
    from mini_agent.config import Config
    from mini_agent.identity import detect
    from mini_agent.places import store_path
    from mini_agent.viewer.show import list_traces, print_trace

    path = options.store or store_path(
        Config.read(os.environ), os.environ, detect(os.environ).environment
    )
    if options.id is not None:
        return print_trace(path, options.id, sys.stdout)
    return list_traces(path, int(options.limit), options.service, sys.stdout)
