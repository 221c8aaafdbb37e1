"""A proxy between a client and PostgreSQL that can encrypt and that loses acknowledgements on request."""

import select
import socket
import ssl
import threading
import time
from pathlib import Path


class Proxy:
    """Listens on a port of the loopback and forwards to a server's Unix socket.

    Args:
        server: Folder of the socket.
        tls: The server's side of an encrypted connection; without it the connection is plain.

    Attributes:
        port: The port.
        lose: When set, the next commit reaches the server, but its acknowledgement is not forwarded.
        hold: When set, statements wait, as those of a pooler's client that has no server connection yet.
    """

    def __init__(self, server: Path, tls: ssl.SSLContext | None = None) -> None:
        self._server, self._tls = server / ".s.PGSQL.5432", tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lose = threading.Event()
        self.hold = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; existing ones stay open."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(str(self._server))
                if self._tls is not None:
                    client.recv(8)  # the request for TLS
                    client.sendall(b"S")
                    client = self._tls.wrap_socket(client, server_side=True)
                while self._pass_on(client, server):
                    pass
            except OSError:
                return
            finally:
                client.close()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        for source in select.select([client, server], [], [])[0]:
            data = source.recv(1 << 16)
            while source is client and data.startswith(b"Q") and self.hold.is_set():
                time.sleep(0.01)
            (client if source is server else server).sendall(data)
            if source is client and b"COMMIT" in data and self.lose.is_set():
                self.lose.clear()
                server.recv(1 << 16)
                return False
            if not data:
                return False
        return True
