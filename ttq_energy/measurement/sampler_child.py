"""The sampling process: polls meters and hands the readings to its parent over a pipe.

Run as ``python -m ttq_energy.measurement.sampler_child``. It is started as a plain subprocess and
not by multiprocessing, because "spawn" imports the user's main module anew and "fork" is unsafe
once CUDA or threads are in use. Messages each way are a 4-byte length and a pickle.

Parent to child: first the list of meters; then flush requests (a number), answered by that number
after all readings before it; the end of the stream stops the child, so it never outlives its
parent.
"""

from __future__ import annotations

import pickle
import signal
import struct
import sys
import threading
from typing import IO, Any

from ttq_energy.measurement.polling import poll
from ttq_energy.meters.base import Meter, Reading

FLUSH_READINGS = 4096
"""Readings are kept back until asked for, so that the parent is not woken while it measures."""


def send_bytes(stream: IO[bytes], data: bytes) -> None:
    """Write one length-prefixed message that is pickled already."""
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def send(stream: IO[bytes], message: Any) -> None:
    """Write one length-prefixed message."""
    send_bytes(stream, pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    head = stream.read(4)
    if len(head) < 4:
        raise EOFError
    (length,) = struct.unpack("<I", head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


class _Buffer:
    """Readings waiting to be sent, as plain tuples (cheaper to pickle than dataclasses)."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, float, float | None, float | None, str | None]] = []

    def add(self, readings: list[Reading]) -> None:
        with self._lock:
            self._waiting.extend(
                (r.domain, r.t_s, r.energy_j, r.power_w, r.error) for r in readings
            )
            if len(self._waiting) >= FLUSH_READINGS:
                self._send()

    def flush(self, token: int) -> None:
        with self._lock:
            self._send()
            send(self._out, ("flushed", token))

    def _send(self) -> None:
        send(self._out, ("readings", self._waiting))
        self._waiting = []


def main() -> int:
    """Serve until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops us
    source, out = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not break the pipe
    try:
        meters: list[Meter] = receive(source)
        for meter in meters:
            meter.start()
    except EOFError:
        return 0
    except Exception as error:
        send(out, ("failed", f"{type(error).__name__}: {error}"))
        return 1
    send(out, ("started", None))
    buffer, stopped = _Buffer(out), threading.Event()
    poller = threading.Thread(target=poll, args=(meters, buffer.add, stopped), daemon=True)
    poller.start()
    try:
        while True:
            buffer.flush(receive(source))
    except (EOFError, OSError):
        pass
    stopped.set()
    poller.join(timeout=1.0)
    for meter in meters:
        meter.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
