from collections.abc import Callable, Mapping, Sequence

from mini_agent.traces.lenient import Findings
from mini_agent.traces.span import TraceChunk
from mini_agent.wire.msgpack import Reader

class NormalTexts:
    def __init__(
        self,
        *,
        service: Callable[[str], tuple[str, tuple[str, ...]]],
        name: Callable[[str], tuple[str, tuple[str, ...]]],
        env: Callable[[str], tuple[str, tuple[str, ...]]],
        status_code: Callable[[str], tuple[str, tuple[str, ...]]],
        start_ns_min: int,
        type_bytes_max: int,
        entries_max: int,
        text_bytes_max: int,
    ) -> None: ...

class SettledTexts:
    def __init__(
        self,
        *,
        look_at_all: bool,
        cards: bool,
        texts: Mapping[str, Sequence[tuple[str, Callable[[str], str]]]],
        query_types: Sequence[str],
        query: Callable[[str, str], str],
        url_tag: str,
        url_query_removed: bool,
        url_digits_removed: bool,
        characters_max: int,
    ) -> None: ...

def read_trace(reader: Reader, findings: Findings) -> TraceChunk | None: ...
def read_table(reader: Reader) -> Table | None: ...

class Table:
    def read_trace(self, reader: Reader, findings: Findings) -> TraceChunk | None: ...
