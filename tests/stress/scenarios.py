"""What may go wrong while senders never pause, one scenario a function.

Each plays its part with the agent as a child process and returns the figures; whether they add
up is judged in one place, `Figures.lost`. The sizes are chosen so that a scenario takes a few
seconds on two cores.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.agent import AgentProcess
from kit.intake import Answer, Hang, Intake, Reset

from stress.load import Load, journal_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.intake import Script

# Spans acknowledged before, during and after the trouble.
PHASE_SPANS = 4_000
# Of four kilobytes each, half of which compression leaves: half as much again as 16 MiB.
NOISY_SPANS = 12_000

DELIVERY_S_MAX = 60.0


@dataclass(frozen=True)
class Figures:
    """What came of one scenario.

    Attributes:
        acknowledged: Spans whose senders were told yes.
        delivered: Of these, at the intake.
        waiting: Of these, not delivered and in the journal.
        dropped: What the agent's own books say was dropped.
        exit_status: Of the agent that ran last.
        books: The agent's last line.
    """

    acknowledged: int
    delivered: int
    waiting: int
    dropped: int
    duplicates: int
    refused_requests: int
    exit_status: int
    books: str

    @property
    def lost(self) -> int:
        """Acknowledged spans that nobody can account for."""
        return self.acknowledged - self.delivered - self.waiting - self.dropped

    @property
    def balanced(self) -> bool:
        """Whether the agent's own books balance too."""
        return self.lost == 0 and self.books.endswith("; balanced")

    def __str__(self) -> str:
        return (
            f"acknowledged {self.acknowledged:>6} = delivered {self.delivered:>6} "
            f"+ in the journal {self.waiting:>6} + dropped {self.dropped:>6}; "
            f"lost {self.lost}; sent twice {self.duplicates}; "
            f"refused requests {self.refused_requests}; exit {self.exit_status}"
        )


class Stage:
    """An intake, a folder, and the agents that are started on it."""

    def __init__(self, intake: Intake, folder: Path) -> None:
        self.intake = intake
        self.folder = folder
        self.journal = folder / "journal"

    def agent(self, **settings: str) -> AgentProcess:
        agent = AgentProcess(
            {
                "DD_APM_DD_URL": self.intake.url,
                "MINI_AGENT_JOURNAL_DIR": str(self.journal),
                "MINI_AGENT_STOP_GRACE_S": "3",
                **settings,
            },
            self.folder,
        )
        agent.wait_ready()
        return agent

    def wait_delivered(self, load: Load) -> None:
        """Wait until everything acknowledged so far is at the intake."""
        wanted = set(load.acknowledged)
        self.intake.wait_for(lambda: wanted <= self.intake.ids, DELIVERY_S_MAX)

    def figures(self, load: Load, agent: AgentProcess) -> Figures:
        """The account after the last agent has ended."""
        exit_status = agent.wait()
        books = agent.final_report()
        delivered = load.acknowledged & self.intake.ids
        waiting = (load.acknowledged - delivered) & journal_ids(str(self.journal))
        counts = self.intake.id_counts
        return Figures(
            acknowledged=len(load.acknowledged),
            delivered=len(delivered),
            waiting=len(waiting),
            dropped=sum(int(count) for count in re.findall(r"spans: .*? dropped=(\d+)", books)),
            duplicates=sum(counts[each] - 1 for each in delivered),
            refused_requests=load.refused_requests,
            exit_status=exit_status,
            books=books,
        )


def sigterm_under_load(stage: Stage) -> Figures:
    """SIGTERM while everybody sends."""
    with stage.agent() as agent, Load(agent) as load:
        load.wait_for_more(2 * PHASE_SPANS)
        agent.terminate()
        agent.wait()
        load.stop()
        return stage.figures(load, agent)


def sigkill_under_load(stage: Stage) -> Figures:
    """SIGKILL while everybody sends; the next start delivers what was left."""
    with stage.agent() as first, Load(first) as load:
        load.wait_for_more(2 * PHASE_SPANS)
        first.kill()
        first.wait()
        load.stop()
    with stage.agent() as second:
        stage.wait_delivered(load)
        second.terminate()
        return stage.figures(load, second)


def sigkill_in_an_outage(stage: Stage) -> Figures:
    """SIGKILL while the intake is away, twice; the third start delivers it all."""
    stage.intake.pause()
    acknowledged: set[int] = set()
    for _ in range(2):
        with stage.agent() as agent, Load(agent) as load:
            load.wait_for_more(PHASE_SPANS)
            agent.kill()
            agent.wait()
            load.stop()
        acknowledged |= load.acknowledged
    stage.intake.resume()
    with stage.agent() as last, Load(last) as load:
        load.acknowledged |= acknowledged
        load.wait_for_more(PHASE_SPANS)
        load.stop()
        stage.wait_delivered(load)
        last.terminate()
        return stage.figures(load, last)


def sigterm_in_an_outage(stage: Stage) -> Figures:
    """SIGTERM while the intake hangs: the agent ends in its time and leaves the rest on disk."""
    stage.intake.answer_always(Hang())
    with stage.agent() as agent, Load(agent) as load:
        load.wait_for_more(PHASE_SPANS)
        agent.terminate()
        agent.wait()
        load.stop()
        return stage.figures(load, agent)


def _intake_trouble(trouble: Script) -> Callable[[Stage], Figures]:
    def scenario(stage: Stage) -> Figures:
        with stage.agent() as agent, Load(agent) as load:
            load.wait_for_more(PHASE_SPANS)
            stage.intake.answer_always(trouble)
            load.wait_for_more(2 * PHASE_SPANS)
            stage.intake.answer_always(202)
            stage.intake.release()
            load.wait_for_more(PHASE_SPANS)
            load.stop()
            stage.wait_delivered(load)
            agent.terminate()
            return stage.figures(load, agent)

    return scenario


def journal_removed(stage: Stage) -> Figures:
    """Somebody deletes the journal folder while everybody sends and the intake is well."""
    with stage.agent() as agent, Load(agent) as load:
        load.wait_for_more(PHASE_SPANS)
        shutil.rmtree(stage.journal, ignore_errors=True)
        load.wait_for_more(PHASE_SPANS)
        load.stop()
        agent.terminate()
        return stage.figures(load, agent)


def journal_refused(stage: Stage) -> Figures:
    """The disk refuses every byte for a while, and the intake is away: memory holds the rest."""
    with stage.agent() as agent, Load(agent) as load:
        load.wait_for_more(PHASE_SPANS)
        stage.intake.answer_always(503)
        unlimited = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        load.wait_for_more(PHASE_SPANS)
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, unlimited)
        load.wait_for_more(PHASE_SPANS)
        load.stop()
        agent.terminate()
        return stage.figures(load, agent)


def disk_full(stage: Stage) -> Figures:
    """A disk of 3 MiB fills up, then memory; then senders are told to wait, and nothing is lost."""
    stage.journal.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", str(stage.journal)], check=True
    )
    try:
        stage.intake.answer_always(503)
        with stage.agent(MINI_AGENT_MEMORY_BYTES_MAX="1MiB") as agent, Load(agent) as load:
            load.wait_for_refusals(5)
            stage.intake.answer_always(202)
            load.wait_for_more(PHASE_SPANS)
            load.stop()
            stage.wait_delivered(load)
            agent.terminate()
            return stage.figures(load, agent)
    finally:
        subprocess.run(["umount", str(stage.journal)], check=True)


def journal_over_its_bound(stage: Stage) -> Figures:
    """An outage outlasts the journal's bound: the oldest batches go, and every one is counted."""
    stage.intake.answer_always(503)
    with (
        stage.agent(MINI_AGENT_JOURNAL_BYTES_MAX="16MiB") as agent,
        # The journal holds compressed batches.
        Load(agent, noise_bytes=2000) as load,
    ):
        load.wait_for_more(NOISY_SPANS)
        load.stop()
        agent.terminate()
        return stage.figures(load, agent)


def _may_mount() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None


SCENARIOS: dict[str, Callable[[Stage], Figures]] = {
    "SIGTERM under load": sigterm_under_load,
    "SIGKILL under load, restart": sigkill_under_load,
    "SIGKILL twice in an outage, restart": sigkill_in_an_outage,
    "SIGTERM while the intake hangs": sigterm_in_an_outage,
    "intake answers 500 for a while": _intake_trouble(500),
    "intake answers 429 for a while": _intake_trouble(Answer(429, {"Retry-After": "1"})),
    "intake resets for a while": _intake_trouble(Reset()),
    "intake resets before reading": _intake_trouble(Reset(before_reading=True)),
    "intake hangs for a while": _intake_trouble(Hang()),
    "journal folder removed": journal_removed,
    "journal refuses for a while": journal_refused,
    "journal over its bound": journal_over_its_bound,
    **({"disk and memory full": disk_full} if _may_mount() else {}),
}

# Only these may drop anything.
DROPS_ALLOWED = frozenset({"journal over its bound", "journal folder removed"})


def play(name: str, folder: Path) -> Figures:
    """Run one scenario in a folder of its own."""
    with Intake(keep_payloads=False) as intake:
        return SCENARIOS[name](Stage(intake, folder))


def faults(name: str, figures: Figures) -> list[str]:
    """What is wrong with the figures of a scenario, in words."""
    wrong = []
    if figures.lost:
        wrong.append(f"{figures.lost} acknowledged spans are unaccounted for")
    if not figures.books.endswith("; balanced"):
        wrong.append(f"the agent's books do not balance: {figures.books}")
    if figures.dropped and name not in DROPS_ALLOWED:
        wrong.append(f"{figures.dropped} were dropped")
    expected_status = 3 if figures.dropped else 0
    if figures.exit_status != expected_status:
        wrong.append(f"exit status {figures.exit_status} instead of {expected_status}")
    return wrong
