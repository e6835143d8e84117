from __future__ import annotations

from kit.interpreter import run_alone


def test_asyncio_works_and_has_not_loaded_tls() -> None:
    code = (
        "import mini_agent.flow.loop, asyncio; asyncio.run(asyncio.sleep(0)); "
        "print('asyncio.base_events' in sys.modules, 'ssl' in sys.modules, '_ssl' in sys.modules)"
    )
    assert run_alone(code) == "True False False"


def test_tls_can_be_loaded_later_and_is_whole() -> None:
    code = (
        "import mini_agent.flow.loop, http.client, ssl; "
        "print(ssl.create_default_context().check_hostname, http.client.HTTPSConnection.__name__)"
    )
    assert run_alone(code) == "True HTTPSConnection"


def test_an_application_that_has_loaded_tls_keeps_it() -> None:
    code = (
        "import ssl, mini_agent.flow.loop, asyncio.sslproto; "
        "print(sys.modules['ssl'] is ssl, asyncio.sslproto.ssl is ssl)"
    )
    assert run_alone(code) == "True True"
