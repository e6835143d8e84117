"""Stats as the intake takes them: what one tracer counted, as records of a size.

A request to the intake is a map with an array of client payloads in it. A record is one client
payload; the map around the array is the frame of its kind (forward/payload.py), so records of
many tracers travel in one request, and one that is too large is divided between records.

A payload, a bucket and a group are dicts with every key of the message, in its order.

Source: reference-agent 6.7, and what the reference 0.19 sends (AdditionalMetricTags).
"""

from __future__ import annotations

from mini_agent.forward.payload import Record
from mini_agent.traces.concentrator import BLOCKED
from mini_agent.traces.stats_key import ROOT_NOT_SET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mini_agent.traces.concentrator import Group, Origin
    from mini_agent.traces.stats_key import StatsKey

    Json = dict[str, Any]

PATH = "/api/v0.2/stats"
CONTENT_TYPE = "application/msgpack"

# The intake takes about 3 MB compressed; a group has some 375 bytes then. Source: the Go
# agent's stats writer.
BODY_GROUPS_MAX = 4000
BODY_BYTES_MAX = 16_000_000

# A request that the intake finds too large is divided between records, so one is a part of that.
RECORD_GROUPS_MAX = 500
RECORD_BYTES_MAX = 1_000_000

# Encoded at once: half a millisecond, or ten of groups of many durations without a compiler.
STEP_GROUPS_MAX = 100

_NO_HEADERS: dict[str, str] = {}

# Counts of the messages have 64 bits.
U64_MAX = (1 << 64) - 1


def _short_text(text: str) -> bytes:
    encoded = text.encode()
    assert len(encoded) < 32, text
    return bytes((0xA0 | len(encoded),)) + encoded


# A map of six: hostname and env of the agent are empty, as the reference has them, and the array
# of client payloads opens with four bytes of its length.
PREFIX = b"".join(
    (
        b"\x86",
        *(_short_text("AgentHostname"), _short_text("")),
        *(_short_text("AgentEnv"), _short_text("")),
        *(_short_text("Stats"), b"\xdd"),
    )
)


def suffix(client_computed: bool) -> bytes:
    """What stands behind the client payloads."""
    return b"".join(
        (
            *(_short_text("AgentVersion"), _short_text("")),
            *(_short_text("ClientComputed"), b"\xc3" if client_computed else b"\xc2"),
            *(_short_text("SplitPayload"), b"\xc2"),
        )
    )


def new_payload() -> Json:
    """A client payload that says nothing."""
    return {
        "Hostname": "",
        "Env": "",
        "Version": "",
        "Stats": [],
        "Lang": "",
        "TracerVersion": "",
        "RuntimeID": "",
        "Sequence": 0,
        "AgentAggregation": "",
        "Service": "",
        "ContainerID": "",
        "Tags": [],
        "GitCommitSha": "",
        "ImageTag": "",
        "ProcessTagsHash": 0,
        "ProcessTags": "",
    }


def new_bucket() -> Json:
    """A bucket without groups."""
    return {"Start": 0, "Duration": 0, "Stats": [], "AgentTimeShift": 0}


def new_group() -> Json:
    """A group that counts nothing."""
    return {
        "Service": "",
        "Name": "",
        "Resource": "",
        "HTTPStatusCode": 0,
        "Type": "",
        "DBType": "",
        "Hits": 0,
        "Errors": 0,
        "Duration": 0,
        "OkSummary": b"",
        "ErrorSummary": b"",
        "Synthetics": False,
        "TopLevelHits": 0,
        "SpanKind": "",
        "PeerTags": [],
        "IsTraceRoot": 0,
        "GRPCStatusCode": "",
        "HTTPMethod": "",
        "HTTPEndpoint": "",
        "srv_src": "",
        "SpanDerivedPrimaryTags": [],
        "AdditionalMetricTags": [],
    }


def payload_of(origin: Origin) -> Json:
    """The client payload for what the agent counted of one tracer."""
    env, version, language, tracer_version, service, container_id = origin
    return {
        **new_payload(),
        "Env": env,
        "Version": version,
        "Lang": language,
        "TracerVersion": tracer_version,
        "Service": service,
        "ContainerID": container_id,
    }


def group_of(key: StatsKey, group: Group) -> Json:
    """The message for a group of the concentrator."""
    resource, service, name, type_, kind, method, endpoint, source = key[:8]
    status, grpc, synthetics, is_root, peer = key[8:]
    return {
        **new_group(),
        "Service": service.decode(),
        "Name": name.decode(),
        "Resource": resource.decode(),
        "HTTPStatusCode": status,
        "Type": type_.decode(),
        "Hits": group.hits,
        "Errors": group.errors,
        "Duration": min(group.duration, U64_MAX),
        "OkSummary": group.ok.encode(),
        "ErrorSummary": group.failed.encode(),
        "Synthetics": synthetics,
        "TopLevelHits": group.top_level_hits,
        "SpanKind": kind.decode(),
        "PeerTags": [tag.decode() for tag in peer],
        "IsTraceRoot": is_root,
        "GRPCStatusCode": grpc.decode(),
        "HTTPMethod": method.decode(),
        "HTTPEndpoint": endpoint.decode(),
        "srv_src": source.decode(),
        "AdditionalMetricTags": [f"{BLOCKED}:"] if is_root == ROOT_NOT_SET else [],
    }


def records_of(
    payload: Json, buckets: Iterable[tuple[Json, Iterable[Json]]]
) -> Iterator[Record | None]:
    """One client payload as records; a group that is too large by itself is one alone.

    Args:
        payload: Its buckets are not looked at.
        buckets: Each bucket with its groups, which are made one at a time.

    Returns:
        The records, and None in between, where others may have their turn.
    """
    # Imported here: nothing is encoded before the port is open.
    import msgspec

    encode = msgspec.msgpack.encode
    frame = encode(payload)
    encoded: list[Json] = []
    count = size = 0

    def finish() -> Record:
        return Record(count, _NO_HEADERS, encode({**payload, "Stats": encoded}))

    for bucket, groups in buckets:
        lot: list[msgspec.Raw] = []
        for group in groups:
            body = encode(group)
            if count and (
                count >= RECORD_GROUPS_MAX or len(frame) + size + len(body) > RECORD_BYTES_MAX
            ):
                if lot:
                    encoded.append({**bucket, "Stats": lot})
                yield finish()
                encoded, lot = [], []
                count = size = 0
            lot.append(msgspec.Raw(body))
            count += 1
            size += len(body)
            if not count % STEP_GROUPS_MAX:
                yield None
        if lot:
            encoded.append({**bucket, "Stats": lot})
    if count:
        yield finish()
