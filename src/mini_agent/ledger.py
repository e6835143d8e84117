"""The books: what came in, what went out, what waits, and what was lost with which reason.

Every unit of a signal (a span, a stats group, a metric point, a log record) that the agent said
yes to is at any moment exactly one of: delivered, waiting, or dropped with a reason.

    adopted + accepted = delivered + waiting + dropped

*Adopted* are units that an earlier process accepted and left in the journal. *Refused* means the
sender was told; refused units were never ours and stand beside the equation. *Repaired* counts
units that were taken with a change (an invalid UTF-8 tag, say); they stand beside it too.

One owner (the event loop's thread) writes; there are no locks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ADOPTED, ACCEPTED, DELIVERED = "adopted", "accepted", "delivered"
REFUSED, DROPPED, REPAIRED = "refused", "dropped", "repaired"
_PLAIN = (ADOPTED, ACCEPTED, DELIVERED)
_REASONED = (DROPPED, REFUSED, REPAIRED)


class Ledger:
    """Counts by signal, kind of entry and reason."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}

    def adopted(self, signal: str, count: int) -> None:
        """Count units found in the journal of a process that is gone."""
        self._add(signal, ADOPTED, "", count)

    def accepted(self, signal: str, count: int) -> None:
        """Count units whose sender was told yes."""
        self._add(signal, ACCEPTED, "", count)

    def delivered(self, signal: str, count: int) -> None:
        """Count units the intake (or the local store) took."""
        self._add(signal, DELIVERED, "", count)

    def refused(self, signal: str, reason: str, count: int = 1) -> None:
        """Count units whose sender was told no."""
        self._add(signal, REFUSED, reason, count)

    def dropped(self, signal: str, reason: str, count: int) -> None:
        """Count units that were ours and that nobody gets."""
        self._add(signal, DROPPED, reason, count)

    def repaired(self, signal: str, reason: str, count: int = 1) -> None:
        """Count units that were taken with a change."""
        self._add(signal, REPAIRED, reason, count)

    def total(self, signal: str, entry: str) -> int:
        """The sum of one kind of entry over its reasons."""
        return sum(
            count
            for (a_signal, an_entry, _), count in self._counts.items()
            if a_signal == signal and an_entry == entry
        )

    def signals(self) -> list[str]:
        """Every signal with an entry, sorted."""
        return sorted({signal for signal, _, _ in self._counts})

    def imbalance(self, waiting: Mapping[str, int]) -> dict[str, int]:
        """What is owed for each signal whose books do not balance; empty when all do.

        Args:
            waiting: Units per signal that are kept and not yet delivered.
        """
        owed = {}
        for signal in {*self.signals(), *waiting}:
            taken = self.total(signal, ADOPTED) + self.total(signal, ACCEPTED)
            placed = self.total(signal, DELIVERED) + self.total(signal, DROPPED)
            difference = taken - placed - waiting.get(signal, 0)
            if difference:
                owed[signal] = difference
        return owed

    def snapshot(self, waiting: Mapping[str, int]) -> dict[str, dict[str, object]]:
        """The books as plain values, for the status page: signal -> entry -> count or reasons."""
        page: dict[str, dict[str, object]] = {}
        for signal in sorted({*self.signals(), *waiting}):
            entries: dict[str, object] = {name: self.total(signal, name) for name in _PLAIN}
            entries["waiting"] = waiting.get(signal, 0)
            for name in _REASONED:
                entries[name] = self._reasons(signal, name)
            page[signal] = entries
        return page

    def report(self, waiting: Mapping[str, int]) -> str:
        """The books as one line, the last a run prints."""
        parts = []
        for signal in sorted({*self.signals(), *waiting}):
            words = [f"{name}={self.total(signal, name)}" for name in _PLAIN]
            words.append(f"waiting={waiting.get(signal, 0)}")
            for name in _REASONED:
                reasons = self._reasons(signal, name)
                detail = ",".join(f"{reason}:{count}" for reason, count in reasons.items())
                words.append(f"{name}={sum(reasons.values())}" + (f"({detail})" if detail else ""))
            parts.append(f"{signal}: {' '.join(words)}")
        owed = self.imbalance(waiting)
        verdict = "balanced" if not owed else f"OUT OF BALANCE by {owed}"
        return "; ".join([*parts, verdict])

    def _reasons(self, signal: str, entry: str) -> dict[str, int]:
        return {
            reason: count
            for (a_signal, an_entry, reason), count in sorted(self._counts.items())
            if a_signal == signal and an_entry == entry
        }

    def _add(self, signal: str, entry: str, reason: str, count: int) -> None:
        assert count >= 0, f"{signal} {entry} {reason}: {count}"
        if count:
            key = (signal, entry, reason)
            self._counts[key] = self._counts.get(key, 0) + count
