"""A TCP proxy that cuts connections, or holds them back, and counts what passes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE_BYTES = 16 * 1024


class CuttingProxy:
    def __init__(self, port: int, *, cuts: tuple[int, ...], bytes_per_second: float | None) -> None:
        self._target = ("127.0.0.1", port)
        self._cuts = list(cuts)
        self.bytes_per_second = bytes_per_second
        self.num_bytes = 0
        """That passed, in both directions."""
        self.num_cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        # Closing alone would leave a thread that waits for one more connection, and takes it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        self.cut_all()

    def cut_all(self) -> None:
        """Break all connections off; new ones are taken."""
        for each in list(self._open):
            self._reset(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # nobody listens at the moment
                    self._reset(client)
                    continue
                self._open.add(server)
                left = [self._cuts.pop(0) if self._cuts else None]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, left), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: list[int | None]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                self.num_bytes += len(piece)
                if left[0] is not None:
                    left[0] -= len(piece)
                    if left[0] < 0:
                        self.num_cut += 1
                        break
                sink.sendall(piece)
                if self.bytes_per_second is not None:
                    time.sleep(len(piece) / self.bytes_per_second)
            else:
                sink.shutdown(socket.SHUT_WR)
                return
        self._reset(source)
        self._reset(sink)

    def _reset(self, each: socket.socket) -> None:
        """Break a connection off as a failing network does."""
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.shutdown(socket.SHUT_RDWR)
        each.close()
        self._open.discard(each)


@contextmanager
def cutting_proxy(
    port: int, *, cuts: tuple[int, ...] = (), bytes_per_second: float | None = None
) -> Iterator[CuttingProxy]:
    """Pass connections on to a port of this machine.

    Args:
        port: where to.
        cuts: bytes after which the first connections break, one for each; later ones do not.
        bytes_per_second: how fast each direction is.
    """
    proxy = CuttingProxy(port, cuts=cuts, bytes_per_second=bytes_per_second)
    try:
        yield proxy
    finally:
        proxy.close()
