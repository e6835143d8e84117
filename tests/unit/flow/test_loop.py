from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kit.loopback import WAIT_S_MAX

SOURCE = str(Path(__file__).parents[3] / "src")


def run(code: str) -> str:
    """What a new interpreter prints, in which every warning is an error."""
    words = [
        sys.executable,
        "-I",
        "-W",
        "error",
        "-c",
        f"import sys; sys.path += [{SOURCE!r}]; {code}",
    ]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=WAIT_S_MAX
    ).stdout.strip()


def test_asyncio_works_and_has_not_loaded_tls() -> None:
    code = (
        "import mini_agent.flow.loop, asyncio; asyncio.run(asyncio.sleep(0)); "
        "print('asyncio.base_events' in sys.modules, 'ssl' in sys.modules, '_ssl' in sys.modules)"
    )
    assert run(code) == "True False False"


def test_tls_can_be_loaded_later_and_is_whole() -> None:
    code = (
        "import mini_agent.flow.loop, http.client, ssl; "
        "print(ssl.create_default_context().check_hostname, http.client.HTTPSConnection.__name__)"
    )
    assert run(code) == "True HTTPSConnection"


def test_an_application_that_has_loaded_tls_keeps_it() -> None:
    code = (
        "import ssl, mini_agent.flow.loop, asyncio.sslproto; "
        "print(sys.modules['ssl'] is ssl, asyncio.sslproto.ssl is ssl)"
    )
    assert run(code) == "True True"
