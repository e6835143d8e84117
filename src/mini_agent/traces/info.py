"""What `/info` says: what the agent can do, for tracers that ask before they send.

Source: reference-agent 3.5; `version`, `span_events` and `span_meta_structs` are those of the
full agent, without which newer tracers hold features back.
"""

from __future__ import annotations

from mini_agent.wire.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STATS = "/v0.6/stats"

_SPAN_KINDS = ("server", "client", "producer", "consumer")

# The tags that name the other side of a call, sorted. Source: reference-agent 3.5.
PEER_TAGS = (
    "_dd.base_service",
    "active_record.db.vendor",
    "amqp.destination",
    "amqp.exchange",
    "amqp.queue",
    "aws.queue.name",
    "aws.s3.bucket",
    "bucketname",
    "cassandra.keyspace",
    "db.cassandra.contact.points",
    "db.couchbase.seed.nodes",
    "db.hostname",
    "db.instance",
    "db.name",
    "db.namespace",
    "db.system",
    "db.type",
    "dns.hostname",
    "grpc.host",
    "hostname",
    "http.host",
    "http.server_name",
    "messaging.destination",
    "messaging.destination.name",
    "messaging.kafka.bootstrap.servers",
    "messaging.rabbitmq.exchange",
    "messaging.system",
    "mongodb.db",
    "msmq.queue.path",
    "net.peer.name",
    "network.destination.ip",
    "network.destination.name",
    "out.host",
    "peer.hostname",
    "peer.service",
    "queuename",
    "rpc.service",
    "rpc.system",
    "sequel.db.vendor",
    "server.address",
    "streamname",
    "tablename",
    "topicname",
)


class Description:
    """The answer of `/info`, made once.

    Attributes:
        body: JSON; the same arguments give the same bytes.
        state: A hash of it, for `Datadog-Agent-State`: tracers ask again when it changes.
    """

    __slots__ = ("body", "state")

    def __init__(self, body: bytes, state: str) -> None:
        self.body = body
        self.state = state


def describe(
    version: str,
    endpoints: Sequence[str],
    receiver_port: int,
    statsd_port: int = 0,
    receiver_socket: str = "",
    agent_stats: bool = False,
) -> Description:
    """Describe an agent.

    Args:
        endpoints: Paths that work; a tracer uses what it finds here.
        receiver_port: As it is listening, 0 when it is not; so for the two below.
        receiver_socket: Path of the Unix socket, or full name of the pipe.
        agent_stats: The agent computes stats from spans itself.
    """
    # Imported here: it is not needed before the port is open.
    import json

    # A tracer that drops spans on its own must bring their stats some other way.
    may_drop = _STATS in endpoints and not agent_stats
    page = {
        "version": version,
        "endpoints": list(endpoints),
        "client_drop_p0s": may_drop,
        "span_meta_structs": True,
        "span_events": True,
        "span_kinds_stats_computed": _SPAN_KINDS,
        "peer_tags": PEER_TAGS,
        "config": {
            "receiver_port": receiver_port,
            "statsd_port": statsd_port,
            "receiver_socket": receiver_socket,
        },
    }
    body = json.dumps(page, separators=(",", ":")).encode()
    return Description(body, sha256(body).hexdigest())
