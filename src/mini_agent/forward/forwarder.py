"""The loop that brings closed batches out of the journal, with patience.

One request at a time, in the sender thread. What comes back decides:

    delivered      the batch's file is deleted
    later          the batch waits in the journal, and so does the whole loop: a jittered wait
                   that doubles up to RETRY_S_MAX, or what Retry-After asks for; 403 waits
                   REFUSED_KEY_S from the start
    too large      the group is sent batch by batch, a single batch in halves, down to one record
    refused        counted as dropped: the same request would fail again

While the loop waits, open batches are left open and grow, so that a long outage leaves few and
large files. After `stop` every batch gets one try without waiting, and the loop ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from mini_agent.forward import packed
from mini_agent.forward.intake import Delivered, Refused, RetryLater, TooLarge
from mini_agent.forward.payload import merge_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol

    from mini_agent.flow.clock import Clock
    from mini_agent.flow.worker import Worker
    from mini_agent.forward.batch import Batch
    from mini_agent.forward.intake import Outcome
    from mini_agent.forward.journal import Journal
    from mini_agent.forward.payload import Kind, Record

    class Destination(Protocol):
        """Takes finished bodies: the intake, or the local store."""

        # Whether it takes a body that has the kind's compression.
        takes_packed: bool

        def deliver(
            self, kind: Kind, headers: Mapping[str, str], body: bytes, packed: bool = False
        ) -> Outcome:
            """Send one body; blocks."""


log = logging.getLogger(__name__)

# First wait after a failure, and the largest. The Go agent waits 0.1 to 10 s and then drops;
# nothing is dropped here, so the last steps may be longer.
RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0

# How often a loop that waits looks whether the journal's disk works again.
DISK_LOOK_S = 1.0

# A refused API key is mended by a person; asking more often only makes noise.
REFUSED_KEY_S = 60.0


class Forwarder:
    """Takes batches from the journal and settles each.

    Args:
        journal: Its `ready` is set to wake this loop.
        destination: Where bodies go; called in `worker` only.
        worker: The sender thread.
        key_refused: Called when the intake refuses the API key.
    """

    def __init__(
        self,
        journal: Journal,
        destination: Destination,
        worker: Worker,
        clock: Clock,
        key_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._destination = destination
        self._worker = worker
        self._clock = clock
        self._key_refused = key_refused
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0
        self._resume_s = 0.0
        self._last_failure = ""
        journal.ready = self._wake.set

    async def run(self) -> None:
        """Deliver until `stop`, then give every batch one try, and return.

        May be called again after it failed. Cancelling: safe; a batch under way stays in the
        journal and may be sent twice.
        """
        self._journal.release_taken()
        while not self._stopping.is_set():
            self._journal.look_after_disk()
            pause_s = self._resume_s - self._clock.steady_s()
            if pause_s > 0:
                await _wait_for(self._stopping, min(pause_s, DISK_LOOK_S))
                continue
            self._wake.clear()
            self._journal.close_due()
            if group := self._journal.take():
                await self._deliver(group)
            else:
                await _wait_for(self._wake, self._journal.seconds_to_due())
        self._journal.close_all()
        tried: set[Batch] = set()
        while group := self._journal.take(passed_over=tried):
            tried.update(group)
            await self._deliver(group)

    def stop(self) -> None:
        """Begin the last round; may be repeated."""
        self._stopping.set()
        self._wake.set()

    def statistics(self) -> Mapping[str, object]:
        """Numbers for the status page."""
        return {
            "failures_in_a_row": self._failures,
            "last_failure": self._last_failure,
            "resumes_in_s": round(max(0.0, self._resume_s - self._clock.steady_s()), 1),
        }

    async def _deliver(self, group: list[Batch]) -> None:
        try:
            attempt = await self._worker.call(_attempt, self._destination, group)
        except asyncio.CancelledError:
            for batch in group:
                self._journal.settle_kept(batch)
            raise
        for batch in attempt.unreadable:
            self._journal.settle_dropped(batch, "journal_removed")
        if attempt.contents:
            self._settle(attempt.contents, attempt.outcome)

    def _settle(self, contents: dict[Batch, list[Record]], outcome: Outcome) -> None:
        match outcome:
            case Delivered():
                for batch, records in contents.items():
                    self._journal.settle_delivered(batch, sum(each.count for each in records))
                if self._failures:
                    log.info("delivering again, after %d failures", self._failures)
                self._failures = 0
            case RetryLater():
                for batch in contents:
                    self._journal.settle_kept(batch)
                self._pause(outcome)
            case TooLarge():
                if not self._journal.settle_apart(contents):
                    self._drop(contents, "refused_413")
            case Refused():
                # In company a batch is not condemned: the refused one may be another.
                if len(contents) == 1 or not self._journal.settle_apart(contents):
                    self._drop(contents, f"refused_{outcome.status}")

    def _drop(self, batches: Iterable[Batch], reason: str) -> None:
        for batch in batches:
            log.warning("the intake refused a batch of %d (%s): dropped", batch.count, reason)
            self._journal.settle_dropped(batch, reason)

    def _pause(self, outcome: RetryLater) -> None:
        self._failures += 1
        self._last_failure = outcome.reason
        if outcome.after_s is not None:
            pause_s = outcome.after_s * random.uniform(1.0, 1.1)
        elif outcome.slowly:
            pause_s = REFUSED_KEY_S * random.uniform(0.9, 1.1)
        else:
            # The exponent is bounded so that a long outage does not overflow a float.
            doubled_s = RETRY_S_MIN * 2.0 ** min(self._failures - 1, 16)
            pause_s = min(RETRY_S_MAX, doubled_s) * random.uniform(0.5, 1.0)
        self._resume_s = self._clock.steady_s() + pause_s
        if outcome.slowly:
            self._key_refused()
        if self._failures == 1:
            log.warning(
                "delivery failed (%s): what was accepted is kept, next try in %.1f s",
                outcome.reason,
                pause_s,
            )
        else:
            log.debug("delivery failed again (%s): next try in %.1f s", outcome.reason, pause_s)


class _Attempt:
    """What one try came to.

    Attributes:
        contents: The batches that could be read, and their sound records.
    """

    __slots__ = ("contents", "outcome", "unreadable")

    def __init__(self) -> None:
        self.contents: dict[Batch, list[Record]] = {}
        self.unreadable: list[Batch] = []
        self.outcome: Outcome = RetryLater("nothing_sent")


def _attempt(destination: Destination, group: list[Batch]) -> _Attempt:
    """In the sender thread: read, join, send."""
    attempt = _Attempt()
    # Several frames would be no one body, so company is unpacked.
    is_packed = len(group) == 1 and group[0].packed and destination.takes_packed
    for batch in group:
        try:
            attempt.contents[batch] = batch.read_pieces() if is_packed else batch.read()
        except OSError as error:
            log.warning("a kept batch of %d cannot be read: %s", batch.count, error.strerror)
            attempt.unreadable.append(batch)
    records = [record for content in attempt.contents.values() for record in content]
    kind = group[0].kind
    if not records:
        # Nothing of it is sound; "delivering" no units counts them all as damaged.
        attempt.outcome = Delivered()
        return attempt
    try:
        headers = merge_headers(kind, records)
        if is_packed:
            body = packed.join(record.body for record in records)
            attempt.outcome = destination.deliver(kind, headers, body, packed=True)
            if isinstance(attempt.outcome, TooLarge):
                attempt.contents = {batch: batch.read() for batch in group}
        else:
            attempt.outcome = destination.deliver(kind, headers, kind.join(records))
    except Exception:
        log.exception("a delivery attempt failed unexpectedly")
        attempt.outcome = RetryLater("unexpected")
    return attempt


async def _wait_for(event: asyncio.Event, wait_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), wait_s)
