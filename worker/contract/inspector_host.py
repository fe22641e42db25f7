"""`python -m worker.contract.inspector_host`: starts an inspector for each file, ready at once.

This process has loaded all that an inspector needs, and has seen no file. It reads none: for each
request it forks a child, which does. What one file does to its child reaches neither this process
nor the next child.

Standard input is a socket. A request is one byte with two sockets and the files to work on: the
`conversation`, on which the child reads a line and answers, and the `leash`, on which this process
says how the child ended. If the leash is let go of, the child is killed.

    {"exit_code": 0, "processor_seconds": 0.02, "peak_bytes": 43000000}     or  {"errno": 11}
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from worker.contract import inspector
from worker.contract.lifeline import die_with_parent
from worker.contract.sandbox import close_descriptors

MAX_FILES = 2
_STANDARD_STREAMS = (0, 1, 2)


def main() -> None:
    """Start inspectors until the other end of standard input is closed."""
    inspector.prepare()
    # Children share these pages until they write to them.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as control:
        _Host(control).run()


class _Host:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.leashes: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.woken, wake = os.pipe()
        for descriptor in (self.woken, wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        self.selector.register(self.control, selectors.EVENT_READ)
        self.selector.register(self.woken, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in self.selector.select():
                    if key.fileobj is self.control:
                        if not self._take_request():
                            return
                    elif key.fileobj == self.woken:
                        os.read(self.woken, 1 << 12)
                        self._reap()
                    else:
                        _kill(key.data)
                        self.selector.unregister(key.fileobj)
        finally:
            for process in self.leashes:
                _kill(process)

    def _take_request(self) -> bool:
        """Start a child; return False when nobody asks any more."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 1, 2 + MAX_FILES)
        if not message:
            return False
        conversation, leash = (socket.socket(fileno=number) for number in descriptors[:2])
        files = descriptors[2:]
        try:
            process = os.fork()
        except OSError as error:
            _say(leash, {"errno": error.errno or 0})
            leash.close()
        else:
            if process == 0:
                _become_inspector(conversation.fileno(), files)
            self.leashes[process] = leash
            self.selector.register(leash, selectors.EVENT_READ, process)
        conversation.close()
        for number in files:
            os.close(number)
        return True

    def _reap(self) -> None:
        for process in list(self.leashes):
            done, status, usage = os.wait4(process, os.WNOHANG)
            if done:
                self._report(process, status, usage)

    def _report(self, process: int, status: int, usage: resource.struct_rusage) -> None:
        leash = self.leashes.pop(process)
        with suppress(KeyError):
            self.selector.unregister(leash)
        end = {
            "exit_code": os.waitstatus_to_exitcode(status),
            "processor_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
        _say(leash, end)
        leash.close()


def _become_inspector(conversation: int, files: Sequence[int]) -> None:
    """Be a new process that has the conversation and the files, and nothing else; do not return."""
    code = 1
    try:
        host = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(conversation, 0)
        os.dup2(conversation, 1)
        close_descriptors((*_STANDARD_STREAMS, *files))
        die_with_parent(host)
        code = inspector.main(dict(zip(("source", "target"), files, strict=False)))
        sys.stdout.flush()
    finally:
        # The end of an interpreter tidies up much that is not allowed any more.
        os._exit(code)


def _kill(process: int) -> None:
    """Kill a child and what it started, which on some systems it can."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _say(leash: socket.socket, end: dict[str, float]) -> None:
    with suppress(OSError):
        leash.sendall(json.dumps(end).encode())


if __name__ == "__main__":
    main()
