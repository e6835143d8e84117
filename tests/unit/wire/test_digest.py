from __future__ import annotations

import hashlib

import pytest
from kit.interpreter import run_alone

from mini_agent.wire.digest import sha256


@pytest.mark.parametrize("text", [b"", b"abc", bytes(range(256)) * 5])
def test_digests_are_those_of_hashlib(text: bytes) -> None:
    assert sha256(text).hexdigest() == hashlib.sha256(text).hexdigest()


def test_a_digest_loads_no_openssl() -> None:
    code = "import mini_agent.wire.digest; print('_hashlib' in sys.modules)"
    assert run_alone(code) == "False"


def test_an_interpreter_without_its_own_asks_hashlib() -> None:
    code = (
        "import hashlib; sys.modules.update(_sha2=None, _sha256=None); "
        "import mini_agent.wire.digest as d; "
        "print(d.sha256 is hashlib.sha256)"
    )
    assert run_alone(code) == "True"
