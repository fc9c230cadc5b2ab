"""Receivers of notifications on this machine: an SMTP server and a webhook."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@contextmanager
def webhook() -> Iterator[tuple[int, list[tuple[str, dict[str, Any]]]]]:
    """Run a webhook; yield its port, and the list of what it receives: path and JSON body."""
    received: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Log nothing."""

    with _serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, received


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """Run an SMTP server; yield its port, and the list of the messages that it receives."""
    received: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.reply("220 ready")
            for line in self.rfile:
                command = line[:4].upper().strip()
                if command == b"DATA":
                    self.reply("354 end with a dot")
                    received.append(self.read_message())
                self.reply("221 bye" if command == b"QUIT" else "250 accepted")
                if command == b"QUIT":
                    return

        def read_message(self) -> str:
            lines = iter(self.rfile.readline, b".\r\n")
            return b"".join(lines).decode()

        def reply(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, received


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
