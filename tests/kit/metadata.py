"""Google's metadata server as a function sees it, on loopback.

with MetadataServer() as server:
    place = metadata.ask(server.host)
"""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from typing import Any

from kit.loopback import WAIT_S_MAX

DOCUMENT = {
    "instance": {"id": "00bf4b", "region": "projects/123/regions/us-east1"},
    "project": {"numericProjectId": 123, "projectId": "shop"},
}


class MetadataServer:
    """Answers every question with the same document until it is told otherwise.

    Args:
        place: Address and port, if not a port of its own.

    Attributes:
        requests: Method and path of each request, in order.
    """

    def __init__(self, document: object = None, place: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.requests: list[tuple[str, str]] = []
        self._status = 200
        self._body = json.dumps(DOCUMENT if document is None else document).encode()
        self._drops = 0
        self._silent = False
        self._closing = threading.Event()
        self._server = _Server(place, self._make_exchange())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> MetadataServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join(WAIT_S_MAX)
        self._server.server_close()

    @property
    def host(self) -> str:
        """What GCE_METADATA_HOST takes."""
        address, port = self._server.server_address[:2]
        return f"{address!s}:{port}"

    def answer(self, status: int, body: bytes = b"") -> None:
        """From now on answer this."""
        self._status, self._body = status, body

    def drop_first(self, count: int) -> None:
        """Close the next connections without an answer."""
        self._drops = count

    def keep_silent(self) -> None:
        """From now on take requests and answer none."""
        self._silent = True

    def _make_exchange(self) -> type[http.server.BaseHTTPRequestHandler]:
        kit = self

        class Exchange(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kit.requests.append((self.command, self.path))
                if kit._drops:
                    kit._drops -= 1
                    return
                if kit._silent:
                    kit._closing.wait(WAIT_S_MAX)
                    return
                # The real one refuses questions that might come from a browser.
                asked_right = self.headers.get("Metadata-Flavor") == "Google"
                self.send_response(kit._status if asked_right else 403)
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Length", str(len(kit._body)))
                self.end_headers()
                self.wfile.write(kit._body)

            do_POST = do_GET

            def version_string(self) -> str:
                # What the reference knows a function's own server by.
                return "Metadata Server for Serverless"

            def log_message(self, *_: Any) -> None:
                pass

        return Exchange


# Not http.server's own server class: that one looks up the machine's name when it binds.
class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
