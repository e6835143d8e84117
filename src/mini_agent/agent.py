"""The wiring: which parts there are, what connects them, how they start and how they stop.

    tracers ──► listen.stream ──► listen.http ──► traces.receiver
                                                   │  decode, rules, encode
                                                   ▼
                                           forward.journal  ══ disk ══  (memory if it must)
                                                   │  one batch at a time
                                                   ▼
                                          forward.forwarder ──► sender thread ──► intake
                                                                              └─► local store
    ledger: everyone who takes, refuses, delivers or drops says so there

Start, so that nothing is refused on the way: the sockets listen before this module is imported
(cli.py); then who the host is, the journal, the forwarder, the receivers; then the ready line.
Connections made meanwhile wait in the sockets' backlog.

The parts, and what it means when one dies (flow/supervise.py restarts with growing pauses, and
gives up after five deaths in a row):

    part               restarted   given up means                      state it leaves behind
    listener, each     yes         drain and exit 4: its clients       its socket, which stays open
                                   never change transport
    forwarder          yes         drain and exit 4                    the journal
    connection watch   yes         drain and exit 4: slow clients      none
                                   would pile up
    adoption           yes         drain and exit 4                    leftovers, for the next start
    TCP port retry     yes         drain and exit 4                    none
    parent watch       yes         drain and exit 4                    none

Stop, from the entrance (a second signal skips what is left of steps 2 and 4):

    step  what happens                                                ends when
    1     the sockets close; idle connections close                   at once
    2     requests under way are answered                             all are, or half the grace
    3     every open batch is closed                                  at once
    4     one delivery try for each batch                             all had it, or the grace
    5     the rest stays in the journal, which is unlocked            at once
    6     the books are printed; the exit status says what was lost   at once
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from mini_agent import __version__, entity, identity, narration, places
from mini_agent.entrances import Entrances, say_missing_tcp
from mini_agent.errors import AgentError, DecodeError
from mini_agent.flow.clock import Clock
from mini_agent.flow.repeat import Repeated
from mini_agent.flow.supervise import Parts
from mini_agent.flow.worker import Worker
from mini_agent.forward.folder import Folder, Owner
from mini_agent.forward.forwarder import Forwarder
from mini_agent.forward.intake import Delivered, Intake, Refused, RetryLater
from mini_agent.forward.journal import Journal
from mini_agent.forward.payload import Kind
from mini_agent.ledger import DROPPED, Ledger
from mini_agent.listen.http import UPLOADS_BYTES_MAX, HttpLimits, HttpServer
from mini_agent.traces import info
from mini_agent.traces.encode import AGENT_PAYLOAD_PREFIX
from mini_agent.traces.enrich import Enrichment
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.sender import SUMMED_HEADERS
from mini_agent.wire.http import Request, Response, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from typing import Any

    from mini_agent.config import Config
    from mini_agent.errors import StartError
    from mini_agent.forward.intake import Outcome
    from mini_agent.identity import Identity
    from mini_agent.listen.bind import BoundSocket
    from mini_agent.viewer.store import TraceStore

log = logging.getLogger(__name__)

# Exit statuses; 1 and 2 are StartError and ConfigError, see cli.py.
STOPPED_CLEAN = 0
STOPPED_WITH_LOSS = 3
PART_DIED = 4

# The intake takes 3.2 MB before compression. Source: the Go agent's MaxPayloadSize.
TRACES_BODY_BYTES_MAX = 3_200_000

# Somebody looks at a laptop's traces right after making them.
LOCAL_BATCH_AGE_S = 0.5

# How soon the death of the parent is noticed.
PARENT_LOOK_S = 0.5

TRACES = Kind(
    name="traces",
    signal="spans",
    path="/api/v0.2/traces",
    content_type="application/x-protobuf",
    prefix=AGENT_PAYLOAD_PREFIX,
    body_bytes_max=TRACES_BODY_BYTES_MAX,
    summed_headers=SUMMED_HEADERS,
)
KINDS = {kind.name: kind for kind in (TRACES,)}

# What tracers may use; each works.
ENDPOINTS = ("/v0.4/traces", "/info")


def run(
    config: Config,
    host: Identity,
    sockets: list[BoundSocket],
    troubles: Mapping[str, StartError],
) -> int:
    """Run the agent until it is told to stop; the exit status.

    Args:
        sockets: Bound and listening, for the trace receiver.
        troubles: Why others could not be had, by transport: "tcp", "unix".

    Raises:
        ConfigError: The host cannot be served with these settings.
    """
    narration.set_up(config.log_level)
    host = identity.verify(host, os.environ)
    for warning in (*config.warnings, *host.warnings):
        log.warning("%s", warning)
    return asyncio.run(_Agent(config, host, sockets, troubles).run())


class _Agent:
    """The parts of one run."""

    def __init__(
        self,
        config: Config,
        host: Identity,
        sockets: list[BoundSocket],
        troubles: Mapping[str, StartError],
    ) -> None:
        self._config = config
        self._host = host
        # Asked now: once the parent is gone, another process is the parent.
        self._parent = os.getppid()
        self._clock = Clock()
        self._ledger = Ledger()
        self._destination = _destination(config, host, self._clock)
        self._folder = _folder(config, host, self._destination.url)
        self._journal = Journal(
            self._folder,
            bytes_max=config.journal_bytes_max,
            memory_bytes_max=config.memory_bytes_max,
            batch_age_s_max=(
                config.flush_interval_s
                if config.api_key
                else min(config.flush_interval_s, LOCAL_BATCH_AGE_S)
            ),
            clock=self._clock,
            ledger=self._ledger,
        )
        self._described = info.describe(__version__, [], 0)
        self._server = self._build_server()
        tcp = config.receiver_host, config.receiver_port
        self._entrances = Entrances(
            self._server,
            sockets,
            missing_tcp=tcp if "tcp" in troubles else None,
            changed=self._describe,
        )
        self._describe()
        for transport, trouble in troubles.items():
            others = ", ".join(self._entrances.urls)
            if transport == "tcp":
                log.warning("%s", say_missing_tcp(config.receiver_port, trouble, others))
            else:
                log.warning("%s; serving %s alone", trouble, others)

    def _describe(self) -> None:
        """Say on `/info`, and in every answer's state header, what is open now."""
        self._described = info.describe(
            version=__version__,
            endpoints=ENDPOINTS,
            receiver_port=self._entrances.port,
            receiver_socket=self._entrances.local_path,
        )
        self._server.set_agent_state(self._described.state)

    def _build_server(self) -> HttpServer:
        config = self._config
        host = self._host
        receiver = TraceReceiver(
            keep=lambda records: self._journal.append(TRACES, records),
            enrichment=Enrichment(
                origin=host.origin,
                root_tags=host.root_tags,
                span_tags=host.span_tags,
                azure_tags=host.azure_tags,
                function_tags=config.tags,
            ),
            ledger=self._ledger,
            body_bytes_max=TRACES_BODY_BYTES_MAX,
        )
        puts = frozenset({"POST", "PUT"})
        routes = {
            "/v0.4/traces": Route(receiver.take_v04, puts, takes_body=True),
            "/info": Route(lambda _: Response(200, self._described.body), None, takes_body=False),
            "/status": Route(self._status, frozenset({"GET"}), takes_body=False),
        }
        limits = HttpLimits(
            body_bytes_max=config.payload_bytes_max,
            uploads_bytes_max=max(UPLOADS_BYTES_MAX, 2 * config.payload_bytes_max),
            connections_max=config.connections_max,
            upload_s_max=config.receiver_timeout_s,
        )
        return HttpServer(routes, limits, self._ledger, self._clock, self._described.state)

    async def run(self) -> int:
        """Serve until a signal, the parent's death or the death of a part."""
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        parts = Parts(self._clock)
        worker = Worker("sender")
        forwarder = Forwarder(
            self._journal,
            self._destination,
            worker,
            self._clock,
            key_refused=self._key_refused,
        )
        self._forwarder = forwarder
        self._journal.open()
        with _signals(self._signalled):
            parts.start("forwarder", forwarder.run)
            self._entrances.start(parts)
            parts.start("connection watch", self._server.watch)
            parts.start("adoption", self._adopt, may_end=True)
            if self._config.exit_with_parent:
                parts.start("parent watch", self._watch_parent, may_end=True)
            self._say_ready()
            await _either(self._stop.wait(), parts.wait_death())
            await self._stop_in_order(parts, forwarder)
        worker.close()
        return self._report(parts)

    async def _stop_in_order(self, parts: Parts, forwarder: Forwarder) -> None:
        started_s = self._clock.steady_s()
        grace_s = self._config.stop_grace_s
        log.info("stopping: at most %.1f s for what is under way", grace_s)
        self._entrances.stop(parts)
        # What reached this machine before now counts as under way: one turn of the loop lets it
        # be seen, another lets it be read. Without them the connection would be reset.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._server.stop()
        await _either(self._server.wait_idle(grace_s / 2), self._hurry.wait())
        self._server.abort()
        forwarder.stop()
        left_s = max(0.0, started_s + grace_s - self._clock.steady_s())
        if not await parts.wait_end("forwarder", left_s, self._hurry):
            log.info("the rest of the deliveries is left to the next start")
        await parts.cancel()
        self._entrances.close()
        self._journal.close()

    def _report(self, parts: Parts) -> int:
        waiting = self._journal.waiting()
        dropped = sum(self._ledger.total(signal, DROPPED) for signal in self._ledger.signals())
        level = logging.WARNING if dropped or self._ledger.imbalance(waiting) else logging.INFO
        log.log(level, "stopped: %s", self._ledger.report(waiting))
        if parts.dead is not None:
            return PART_DIED
        return STOPPED_WITH_LOSS if dropped else STOPPED_CLEAN

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _key_refused(self) -> None:
        if self._folder is not None:
            self._folder.mark_key_refused()

    async def _adopt(self) -> None:
        """Take over what dead processes left, one batch at a time between requests."""
        if self._folder is None:
            return
        for path in self._folder.leftovers(KINDS):
            self._journal.adopt(KINDS[path.rpartition(".")[2]], path)
            await asyncio.sleep(0)

    async def _watch_parent(self) -> None:
        while os.getppid() == self._parent:
            await asyncio.sleep(PARENT_LOOK_S)
        log.info("the parent is gone")
        self._stop.set()

    def _say_ready(self) -> None:
        config = self._config
        where = ", ".join(self._entrances.urls)
        goes_to = self._destination.url
        kept = self._journal.statistics()["where"]
        kept_in = self._folder.path if self._folder and kept == "disk" else "memory only"
        sys.stdout.write(
            f"mini-agent {__version__} ready: traces on {where}; host {self._host.environment}; "
            f"delivering to {goes_to}; journal {kept_in}\n"
        )
        sys.stdout.flush()
        if not config.api_key:
            log.info("no DD_API_KEY: nothing leaves this machine; see `mini-agent traces`")

    def _status(self, _: Request) -> Response:
        import json

        page = {
            "version": __version__,
            "environment": self._host.environment,
            "destination": self._destination.url,
            "connections": self._server.connection_count,
            "journal": self._journal.statistics(),
            "forwarder": self._forwarder.statistics(),
            "ledger": self._ledger.snapshot(self._journal.waiting()),
        }
        return Response(200, json.dumps(page, indent=1).encode())


class _LocalStore:
    """The destination without an account: bodies go into the embedded store."""

    def __init__(self, store: TraceStore, clock: Clock) -> None:
        self._store = store
        self._complaints = Repeated(clock)
        self.url = f"the local store {store.path}"

    def deliver(self, kind: Kind, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Store one traces body; blocks."""
        assert kind is TRACES, kind.name
        try:
            self._store.add_payload(body)
        except DecodeError as error:
            log.error("a batch of our own cannot be read: %s", error)
            return Refused(error.status)
        except AgentError as error:
            if self._complaints.may("unavailable") is not None:
                log.warning("%s", error)
            return RetryLater("store_unavailable")
        return Delivered()


def _destination(config: Config, host: Identity, clock: Clock) -> Intake | _LocalStore:
    if not config.api_key:
        # Imported here: an agent with an account never needs SQLite.
        from mini_agent.viewer.store import TraceStore

        path = places.store_path(config, os.environ, host.environment)
        store = TraceStore(path, config.store_traces_max, clock)
        try:
            store.prepare()
        except AgentError as error:
            log.warning("%s; trying again later", error)
        return _LocalStore(store, clock)
    headers = {
        **entity.request_headers(),
        "user-agent": f"mini-agent/{__version__}",
        # Otherwise the intake answers 200 to everything. Source: reference-agent 4.10.
        "datadog-send-real-http-status": "1",
    }
    if config.external_env:
        headers["datadog-external-env"] = config.external_env
    return Intake(
        url=config.intake_url or f"https://trace.agent.{config.site}",
        api_key=config.api_key,
        headers=headers,
        proxy_url=config.proxy_url,
        no_proxy=config.no_proxy,
        compression_level=config.compression_level,
    )


def _folder(config: Config, host: Identity, destination: str) -> Folder | None:
    if not config.journal_bytes_max:
        return None
    owner = Owner(host.application or host.environment, destination, config.api_key or "")
    return Folder(places.journal_dir(config, os.environ, host.environment), owner)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have the signals that end a program call `stop` on the loop instead."""
    loop = asyncio.get_running_loop()
    names = ("SIGTERM", "SIGINT", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _either(*works: Coroutine[Any, Any, object]) -> None:
    """Wait until one of several works is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
