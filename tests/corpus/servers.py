"""The servers that store programs talk to while they are recorded, each on a port of its own.

They are the real ones, from the system's packages; see README.md. What they keep lies in a folder
that goes when the recording ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from kit.ports import find_tcp_port
from kit.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# A broker on Erlang's machine takes its time.
READY_S_MAX = 60.0
SETUP_S_MAX = 60.0
STOP_S_MAX = 30.0

# The database, its user and the user's password; nobody but the recorder connects.
NAME = "shop"


@contextlib.contextmanager
def run_servers(folder: Path) -> Iterator[dict[str, str]]:
    """Run Redis, PostgreSQL, MariaDB and RabbitMQ; gives the variables that say where they are."""
    with contextlib.ExitStack() as running:
        yield {
            "SHOP_REDIS_PORT": str(running.enter_context(_run_redis(folder / "redis"))),
            "SHOP_POSTGRES_PORT": str(running.enter_context(_run_postgres(folder / "postgres"))),
            "SHOP_MYSQL_PORT": str(running.enter_context(_run_mariadb(folder / "mariadb"))),
            "SHOP_AMQP_PORT": str(running.enter_context(_run_rabbitmq(folder / "rabbitmq"))),
        }


@contextlib.contextmanager
def _run_redis(folder: Path) -> Iterator[int]:
    folder.mkdir()
    port = find_tcp_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    with _run(command, folder, port):
        yield port


@contextlib.contextmanager
def _run_postgres(folder: Path) -> Iterator[int]:
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    port = find_tcp_port()
    folder.mkdir()
    # PostgreSQL will not run as root.
    become: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        for parent in (folder, *folder.parents[:2]):
            parent.chmod(0o755)
        become = ["runuser", "-u", "postgres", "--"]
    files = str(folder / "files")
    _set_up([*become, str(programs / "initdb"), "-D", files, "-U", NAME, "-A", "trust"], folder)
    command = [*become, str(programs / "postgres"), "-D", files, "-p", str(port), "-k", ""]
    with _run(command, folder, port):
        _set_up(["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", NAME, NAME], folder)
        yield port


@contextlib.contextmanager
def _run_mariadb(folder: Path) -> Iterator[int]:
    folder.mkdir()
    port = find_tcp_port()
    files = folder / "files"
    user = ["--user=root"] if os.geteuid() == 0 else []
    _set_up(["mariadb-install-db", "--no-defaults", f"--datadir={files}", *user], folder)
    socket_path = folder / "socket"
    options = [f"--datadir={files}", f"--socket={socket_path}", f"--port={port}", *user]
    with _run(["mariadbd", "--no-defaults", "--bind-address=127.0.0.1", *options], folder, port):
        orders = (
            f"CREATE DATABASE {NAME}; "
            f"CREATE USER '{NAME}'@'localhost' IDENTIFIED BY '{NAME}'; "
            f"GRANT ALL ON {NAME}.* TO '{NAME}'@'localhost'"
        )
        _set_up(["mariadb", "--no-defaults", f"--socket={socket_path}", "-e", orders], folder)
        yield port


@contextlib.contextmanager
def _run_rabbitmq(folder: Path) -> Iterator[int]:
    folder.mkdir()
    port = find_tcp_port()
    names_port = str(find_tcp_port())
    settings = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": names_port,
        "RABBITMQ_MNESIA_BASE": str(folder / "files"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODENAME": f"shop{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(find_tcp_port()),
        # Beside it nothing else of it is to run on this machine.
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }
    # The wrapper of the system's package insists on a user of its own.
    program = max(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))
    with _run([str(program)], folder, port, settings):
        yield port
    # Erlang's name server stays behind what it was started for.
    _set_up(["epmd", "-port", names_port, "-kill"], folder)


@contextlib.contextmanager
def _run(
    command: Sequence[str], folder: Path, port: int, settings: Mapping[str, str] | None = None
) -> Iterator[None]:
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **(settings or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: server.poll() is not None or _answers(port), READY_S_MAX)
            assert server.poll() is None, (folder / "output").read_text()
            yield
        finally:
            server.terminate()
            server.wait(STOP_S_MAX)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _set_up(command: Sequence[str], folder: Path) -> None:
    subprocess.run(list(command), cwd=folder, check=True, capture_output=True, timeout=SETUP_S_MAX)
