"""The messages compile, and are there once however often they are asked for."""

from __future__ import annotations

from kit import protos


def test_traces_survive_a_round_trip():
    messages = protos.load()
    payload = messages.AgentPayload(targetTPS=60.0)
    chunk = payload.tracerPayloads.add(languageName="python").chunks.add(priority=-128)
    chunk.spans.add(traceID=2**64 - 1, meta={"a": "ü"}, metrics={"b": 0.5})
    assert messages.AgentPayload.FromString(payload.SerializeToString()) == payload
    assert protos.load() is messages


def test_stats_survive_a_round_trip():
    messages = protos.load_stats()
    payload = messages.StatsPayload(agentEnv="prod")
    bucket = payload.stats.add(hostname="a").stats.add(start=1, duration=2)
    bucket.stats.add(name="web.request", hits=3, peer_tags=["a:b"], okSummary=b"\1")
    assert messages.StatsPayload.FromString(payload.SerializeToString()) == payload
