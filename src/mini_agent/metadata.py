"""Google's metadata server: in which region and project a function runs.

It answers from the same machine within milliseconds, or it is not there. What it does not say is
`unknown`, with a warning; traces are worth sending without it.

Source: reference-agent 1.3. Unlike the reference this asks with GET (the documented method),
looks at the status, tries again, and lives on when nobody answers.
"""

from __future__ import annotations

import http.client
import json
import threading
import time

HOST = "metadata.google.internal"
UNKNOWN = "unknown"

# One attempt, connecting and the name's look-up included; as long as the reference waits.
ATTEMPT_S_MAX = 0.1
# A second attempt for a server that is still starting. A slow one gets no second: with both and
# the pause the start is held up for 0.3 s at worst.
ATTEMPTS = 2
PAUSE_S = 0.1
# All there is to know of a function and its project is some 10 kB.
ANSWER_BYTES_MAX = 1024 * 1024


class Place:
    """Where a function runs.

    Attributes:
        region: Such as us-east1, or unknown.
        project: The project's id, or unknown.
        warnings: Why something is unknown.
    """

    __slots__ = ("project", "region", "warnings")

    def __init__(self, region: str, project: str, warnings: tuple[str, ...]) -> None:
        self.region = region
        self.project = project
        self.warnings = warnings


class _Failed(Exception):
    """An attempt that did not bring metadata; says why."""


def ask(host: str) -> Place:
    """Where this function runs; blocks for up to 0.3 s and does not fail.

    Args:
        host: Name or address, with or without a port.
    """
    complaint = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        outcome = _attempt(host)
        if isinstance(outcome, Place):
            return outcome
        if outcome is None:
            complaint = f"did not answer within {ATTEMPT_S_MAX * 1000:.0f} ms"
            break
        complaint = str(outcome)
    return Place(UNKNOWN, UNKNOWN, (f"region and project unknown: {host} {complaint}",))


def _attempt(host: str) -> Place | _Failed | None:
    """One attempt's outcome; None when the time was over.

    In a thread of its own, because looking up a name cannot be given a time limit. When it is
    late the thread is left to end by itself; it holds one socket until then.
    """
    outcomes: list[Place | _Failed] = []

    def work() -> None:
        try:
            outcomes.append(_read_place(_exchange(host)))
        except _Failed as failed:
            outcomes.append(failed)
        except TimeoutError:
            return

    thread = threading.Thread(target=work, name="metadata", daemon=True)
    thread.start()
    thread.join(ATTEMPT_S_MAX)
    return outcomes[0] if outcomes else None


def _exchange(host: str) -> bytes:
    # http.client knows no proxies, which is right here: the address is link-local.
    try:
        connection = http.client.HTTPConnection(host, timeout=ATTEMPT_S_MAX)
        try:
            path = "/computeMetadata/v1/?recursive=true"
            connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES_MAX)
        finally:
            connection.close()
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException) as problem:
        raise _Failed(f"cannot be asked ({type(problem).__name__})") from problem
    if response.status != http.client.OK:
        raise _Failed(f"answered with status {response.status}")
    return body


def _read_place(body: bytes) -> Place:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise _Failed("answered with something that is not JSON") from problem
    region = _text_at(document, "instance", "region").split("/")
    project = _text_at(document, "project", "projectId")
    warnings = []
    # Such as projects/123/regions/us-east1.
    if len(region) != 4:
        warnings.append("region unknown: the metadata server did not say it")
    if not project:
        warnings.append("project unknown: the metadata server did not say it")
    return Place(region[3] if len(region) == 4 else UNKNOWN, project or UNKNOWN, tuple(warnings))


def _text_at(document: object, *path: str) -> str:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document if isinstance(document, str) else ""
