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
gives up after five deaths in a row). tests/integration/test_supervision.py reads this table:

    part              restarted  given up means    stops in  state it leaves behind
    listener, each    yes        drain and exit 4  step 1    its socket, which stays open
    TCP port retry    yes        drain and exit 4  step 1    none
    forwarder         yes        drain and exit 4  step 4    the journal
    connection watch  yes        drain and exit 4  step 5    none
    adoption          yes        drain and exit 4  step 5    leftovers, for the next start
    stats clock       yes        drain and exit 4  step 5    open buckets, which the drain delivers

None of them is missing for long without an end: the clients of a listener never change transport,
and without the watch slow clients would pile up.

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

# First of all: it decides what asyncio loads.
from mini_agent.flow import loop

# isort: split
import asyncio
import logging
import os
import sys

from mini_agent import __version__, assembly, endings, identity, narration, twins
from mini_agent.assembly import CLIENT_STATS, KINDS, STATS, TRACES
from mini_agent.doors import TCP
from mini_agent.entrances import Entrances, say_missing_tcp
from mini_agent.flow import memory
from mini_agent.flow.clock import Clock
from mini_agent.flow.supervise import Parts
from mini_agent.flow.worker import Worker
from mini_agent.forward import checkpoint
from mini_agent.forward.batch import remove_quietly
from mini_agent.forward.checkpoint import Checkpoint
from mini_agent.forward.forwarder import Forwarder
from mini_agent.forward.journal import Journal
from mini_agent.ledger import DROPPED, Ledger
from mini_agent.listen.http import UPLOADS_BYTES_MAX, HttpLimits, HttpServer
from mini_agent.traces import info
from mini_agent.traces.receiver import TraceReceiver
from mini_agent.traces.stats import Stats
from mini_agent.traces.stats_receiver import StatsReceiver
from mini_agent.wire.http import Request, Response, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from typing import Any

    from mini_agent.config import Config
    from mini_agent.doors import Doors
    from mini_agent.entrances import Listener
    from mini_agent.identity import Identity

log = logging.getLogger(__name__)

# Exit statuses; 1 and 2 are StartError and ConfigError, see cli.py.
STOPPED_CLEAN = 0
STOPPED_WITH_LOSS = 3
PART_DIED = 4

# Somebody looks at a laptop's traces right after making them.
LOCAL_BATCH_AGE_S = 0.5

# What tracers may use; each works.
ENDPOINTS = ("/v0.3/traces", "/v0.4/traces", "/v0.5/traces", "/v0.7/traces", "/info")
# Without an account stats have nowhere to go.
ACCOUNT_ENDPOINTS = (*ENDPOINTS, "/v0.6/stats")

# How often complete buckets leave and the open ones are kept: what a kill may cost.
STATS_TICK_S = 1.0
# Keeping them takes no more than this part of the time, however many they are.
STATS_SHARE_MAX = 0.05


def run(config: Config, host: Identity, doors: Doors) -> int:
    """Run the agent until it is told to stop; the exit status.

    Args:
        doors: What listens already, and what could not be opened.

    Raises:
        ConfigError: The host cannot be served with these settings.
    """
    narration.set_up(config.log_level)
    host = identity.verify(host, os.environ)
    for warning in (*config.warnings, *host.warnings):
        log.warning("%s", warning)
    with asyncio.Runner(loop_factory=loop.make_loop) as runner:
        return runner.run(_Agent(config, host, doors).run())


class _Agent:
    """The parts of one run."""

    def __init__(self, config: Config, host: Identity, doors: Doors) -> None:
        self._config = config
        self._host = host
        # Asked now: once the parent is gone, another process is the parent.
        self._parent = (
            (config.parent_pid or endings.find_parent()) if config.exit_with_parent else None
        )
        self._clock = Clock()
        self._ledger = Ledger()
        self._destination = assembly.make_destination(config, host, self._clock)
        self._folder = assembly.make_folder(config, host, self._destination.url)
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
            # The local store reads what nobody has compressed.
            packing_level=config.compression_level if config.api_key else None,
        )
        self._checkpoint = Checkpoint(self._folder)
        # Handing over, keeping and taking over have steps: one of them at a time.
        self._stats_turn = asyncio.Lock()
        self._stats = Stats(
            env=config.env,
            keep=lambda records: self._journal.append(STATS, records),
            ledger=self._ledger,
            clock=self._clock,
        )
        self._described = info.describe(__version__, [], 0)
        self._server = self._build_server()
        self._entrances = self._make_entrances(doors)
        self._describe()

    def _make_entrances(self, doors: Doors) -> Entrances:
        config = self._config
        others: list[Listener] = []
        if sys.platform == "win32" and doors.pipe is not None:
            from mini_agent.listen.pipe import PipeListener

            others.append(PipeListener(doors.pipe, self._server, config.pipe_clients_max))
        tcp = config.receiver_host, config.receiver_port
        entrances = Entrances(
            self._server,
            doors.sockets,
            others,
            missing_tcp=tcp if TCP in doors.troubles else None,
            changed=self._describe,
        )
        open_now = ", ".join(entrances.urls)
        for transport, trouble in doors.troubles.items():
            if transport == TCP:
                log.warning("%s", say_missing_tcp(config.receiver_port, trouble, open_now))
            else:
                log.warning("%s; serving %s alone", trouble, open_now)
        return entrances

    def _describe(self) -> None:
        """Say on `/info`, and in every answer's state header, what is open now."""
        self._described = info.describe(
            version=__version__,
            endpoints=ACCOUNT_ENDPOINTS if self._config.api_key else ENDPOINTS,
            receiver_port=self._entrances.port,
            receiver_socket=self._entrances.local_path,
            agent_stats=self._computes_stats,
        )
        self._server.set_agent_state(self._described.state)

    @property
    def _computes_stats(self) -> bool:
        return bool(self._config.computes_stats and self._config.api_key)

    def _build_server(self) -> HttpServer:
        config = self._config
        host = self._host
        rules = assembly.make_replace_rules(config)
        obfuscator = assembly.make_obfuscator(config, rules)
        receiver = TraceReceiver(
            keep=lambda records: self._journal.append(TRACES, records),
            enrichment=assembly.make_enrichment(config, host),
            ledger=self._ledger,
            body_bytes_max=TRACES.body_bytes_max,
            clock=self._clock,
            filters=assembly.make_filters(config),
            obfuscator=obfuscator,
            stats=self._stats if self._computes_stats else None,
        )
        stats_receiver = StatsReceiver(
            env=config.env,
            keep=lambda records: self._journal.append(CLIENT_STATS, records),
            ledger=self._ledger,
            clock=self._clock,
            obfuscate_query=obfuscator.obfuscate_query,
            replace_rules=rules,
        )
        puts = frozenset({"POST", "PUT"})
        routes = {
            "/v0.3/traces": Route(receiver.take_v03, puts, takes_body=True),
            "/v0.4/traces": Route(receiver.take_v04, puts, takes_body=True),
            "/v0.5/traces": Route(receiver.take_v05, puts, takes_body=True),
            "/v0.7/traces": Route(receiver.take_v07, puts, takes_body=True),
            "/info": Route(lambda _: Response(200, self._described.body), None, takes_body=False),
            "/status": Route(self._status, frozenset({"GET"}), takes_body=False),
        }
        if config.api_key:
            routes["/v0.6/stats"] = Route(stats_receiver.take_v06, puts, takes_body=True)
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
        with endings.watch(
            self._stop.set,
            self._hurry.set,
            parent=self._parent,
            control_stdin=self._config.control_stdin,
        ):
            parts.start("forwarder", forwarder.run)
            self._entrances.start(parts)
            parts.start("connection watch", self._server.watch)
            parts.start("adoption", self._adopt, may_end=True)
            parts.start("stats clock", self._keep_stats)
            memory.look_at_new_objects_only()
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
        # be seen, another lets it be read, and more do where a turn serves only some. Without
        # them the connection would be reset. The third is for what is no connection of a client.
        for _ in range(3 + self._server.connection_count // loop.EVENTS_MAX):
            await asyncio.sleep(0)
        self._server.stop()
        await _either(self._server.wait_idle(grace_s / 2), self._hurry.wait())
        self._server.abort()
        await self._flush_stats(everything=True)
        forwarder.stop()
        left_s = max(0.0, started_s + grace_s - self._clock.steady_s())
        if not await parts.wait_end("forwarder", left_s, self._hurry):
            log.info("the rest of the deliveries is left to the next start")
        await parts.cancel()
        # A leftover may have been adopted meanwhile.
        await self._flush_stats(everything=True)
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

    def _key_refused(self) -> None:
        if self._folder is not None:
            self._folder.mark_key_refused()

    async def _adopt(self) -> None:
        """Take over what dead processes left, one batch at a time between requests."""
        if self._folder is None:
            return
        for path in self._folder.leftovers({*KINDS, checkpoint.SUFFIX}):
            kind = KINDS.get(path.rpartition(".")[2])
            if kind is not None:
                self._journal.adopt(kind, path)
            else:
                await self._adopt_checkpoint(path)
            await asyncio.sleep(0)

    async def _adopt_checkpoint(self, path: str) -> None:
        """Go on counting where a dead process stopped."""
        content = checkpoint.read_leftover(path)
        async with self._stats_turn:
            if content is not None:
                await _in_steps(self._stats.restore(content))
                await _in_steps(self._stats.flush())
                await _in_steps(self._stats.snapshot(self._checkpoint.write))
            remove_quietly(path)

    async def _keep_stats(self) -> None:
        """The stats clock: hand over what is complete, keep what is not."""
        while True:
            started_s = self._clock.steady_s()
            await self._flush_stats()
            took_s = self._clock.steady_s() - started_s
            await asyncio.sleep(max(STATS_TICK_S, took_s / STATS_SHARE_MAX))

    async def _flush_stats(self, everything: bool = False) -> None:
        async with self._stats_turn:
            await _in_steps(self._stats.flush(everything))
            await _in_steps(self._stats.snapshot(self._checkpoint.write))

    def _say_ready(self) -> None:
        config = self._config
        where = ", ".join(self._entrances.urls)
        goes_to = self._destination.url
        kept = self._journal.statistics()["where"]
        kept_in = self._folder.path if self._folder and kept == "disk" else "memory only"
        sys.stdout.write(
            f"mini-agent {__version__} ({twins.running()}) ready: traces on {where}; "
            f"host {self._host.environment}; delivering to {goes_to}; journal {kept_in}\n"
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
            "open_stats_groups": self._stats.group_count,
            "ledger": self._ledger.snapshot(self._journal.waiting()),
        }
        return Response(200, json.dumps(page, indent=1).encode())


async def _in_steps(steps: Iterable[None]) -> None:
    """Do some work, and let others have their turn between its steps."""
    for _ in steps:
        await asyncio.sleep(0)


async def _either(*works: Coroutine[Any, Any, object]) -> None:
    """Wait until one of several works is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
