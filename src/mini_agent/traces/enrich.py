"""The tags that say where the traced program ran.

Source: reference-agent 4.6; it overwrites the `_dd.origin` of synthetics, RUM and CI tests,
which is not repeated here (11, 37).
"""

from __future__ import annotations

from mini_agent.traces.chunk import ORIGIN
from mini_agent.traces.span import TagSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mini_agent.traces.sender import Sender
    from mini_agent.traces.span import TraceChunk

# API Management makes this span for another resource than the function.
_AZURE_APIM = "azure.apim"
_FUNCTION_TAGS = "_dd.tags.function"


class Enrichment:
    """Writes the tags of one environment, decided once at start.

    Args:
        origin: The kind of host as the intake calls it; None on a host of no kind, where the
            root gets no tags.
        root_tags: For root spans, apart from the origin.
        span_tags: For every span.
        azure_tags: For every span but those of Azure API Management.
        function_tags: The operator's own tags as `key:value,...`, for whole payloads.
    """

    def __init__(
        self,
        origin: str | None,
        root_tags: Mapping[str, str],
        span_tags: Mapping[str, str],
        azure_tags: Mapping[str, str],
        function_tags: str,
    ) -> None:
        self._origin = origin
        self._root_tags = TagSet({**root_tags, "origin": origin} if origin else {})
        self._span_tags = TagSet(span_tags)
        self._azure_tags = TagSet(azure_tags) if azure_tags else None
        self.payload_tags = {_FUNCTION_TAGS: function_tags} if function_tags else {}

    def enrich_root(self, chunk: TraceChunk, sender: Sender) -> None:
        """Tag the root; a chunk rule, after the chunk's own origin was read."""
        if self._origin is None:
            return
        root = chunk.root
        if not root.get_meta(ORIGIN):
            root.set_meta(ORIGIN, self._origin)
        root.update_meta(self._root_tags)

    def enrich_spans(self, chunk: TraceChunk) -> None:
        """Tag every span of a chunk."""
        if self._span_tags.raw:
            chunk.update_meta(self._span_tags)
        if self._azure_tags is not None:
            chunk.update_meta(self._azure_tags, unless_named=_AZURE_APIM)
