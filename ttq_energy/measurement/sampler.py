"""Samplers: they keep the power readings between a window's ends, away from the measured code."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from ttq_energy.measurement.polling import Series, poll
from ttq_energy.measurement.sampler_child import receive, send, send_bytes
from ttq_energy.meters.base import Meter, Reading

START_TIMEOUT_S = 20.0
FLUSH_TIMEOUT_S = 2.0


class ThreadSampler:
    """Polls meters in a thread of this process.

    Right for counters, whose trace is slow; for power sensors it is the fallback, because Python
    code that holds the interpreter delays it.
    """

    place = "thread"

    def __init__(self, meters: Sequence[Meter], locks: Sequence[threading.Lock]) -> None:
        self._meters, self._locks = list(meters), list(locks)
        self._series: dict[str, Series] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem = ""

    def start(self) -> None:
        """Begin polling; the meters are started already."""
        if not self._meters:
            return
        self._thread = threading.Thread(
            target=poll,
            args=(self._meters, self._add, self._stopped, self._locks),
            name="ttq-energy-sampler",
            daemon=True,
        )
        self._thread.start()

    def _add(self, readings: list[Reading]) -> None:
        for reading in readings:
            self._series.setdefault(reading.domain, Series()).add(reading)

    def flush(self) -> None:
        """Everything polled so far is in ``series`` when this returns."""

    def series(self, domain: str) -> Series:
        """What was polled of a domain so far."""
        return self._series.get(domain) or Series()

    def stop(self) -> None:
        """End polling; may be called twice."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
            self._thread = None


class ProcessSampler:
    """Polls meters in a Python process of its own; see ``sampler_child``."""

    place = "process"

    def __init__(self, recipe: bytes) -> None:
        """``recipe`` is the pickled list of meters, not yet started."""
        self._recipe = recipe
        self._series: dict[str, Series] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._answered = threading.Condition()
        self._asked = self._flushed = 0
        self.problem = ""

    def start(self) -> None:
        """Start the process and wait until it polls.

        Raises:
            RuntimeError: it did not come up; the message says why.
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        child = subprocess.Popen(
            [sys.executable, "-m", "ttq_energy.measurement.sampler_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        self._child = child
        watchdog = threading.Timer(START_TIMEOUT_S, child.kill)
        watchdog.start()
        try:
            send_bytes(child.stdin, self._recipe)
            kind, text = receive(child.stdout)
        except (EOFError, OSError):
            kind, text = "failed", "it ended at once"
        finally:
            watchdog.cancel()
        if kind != "started":
            self.stop()
            raise RuntimeError(f"the sampling process did not start: {text}")
        self._reader = threading.Thread(target=self._receive, name="ttq-energy-reader", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        stream = self._child.stdout
        try:
            while True:
                self._take(*receive(stream))
        except (EOFError, OSError, ValueError):
            with self._answered:
                if self._child is not None:
                    self.problem = "the sampling process ended early"
                self._answered.notify_all()

    def _take(self, kind: str, content: Any) -> None:
        if kind == "readings":
            for domain, t_s, energy_j, power_w, error in content:
                reading = Reading(domain, t_s, energy_j, power_w, error)
                self._series.setdefault(domain, Series()).add(reading)
        elif kind == "flushed":
            with self._answered:
                self._flushed = content
                self._answered.notify_all()

    def flush(self) -> None:
        """Fetch what the process holds back; ``problem`` says so where it does not answer."""
        child = self._child
        if child is None or child.stdin is None:
            return
        with self._answered:
            self._asked += 1
            token = self._asked
            try:
                send(child.stdin, token)
            except OSError:
                self.problem = "the sampling process ended early"
                return
            deadline = time.monotonic() + FLUSH_TIMEOUT_S
            while self._flushed < token and not self.problem:
                if not self._answered.wait(max(deadline - time.monotonic(), 0.0)):
                    self.problem = f"the sampling process did not answer for {FLUSH_TIMEOUT_S} s"

    def series(self, domain: str) -> Series:
        """What was fetched of a domain so far."""
        return self._series.get(domain) or Series()

    def stop(self) -> None:
        """Fetch what is left and end the process; may be called twice."""
        if self._child is None:
            return
        if self._reader is not None and not self.problem:
            self.flush()
        child, self._child = self._child, None
        for stream in (child.stdin,):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            child.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if self._reader is not None:
            self._reader.join(timeout=1.0)
        if child.stdout is not None:
            child.stdout.close()


Sampler = ThreadSampler | ProcessSampler


def recipe_of(meters: Sequence[Meter]) -> bytes | str:
    """Meters, not yet started, as bytes for another process; or why they cannot be sent there."""
    try:
        return pickle.dumps(list(meters))
    except Exception as error:
        return f"the meter cannot be pickled ({str(error).splitlines()[0]})"


def start_sampler(
    recipe: bytes | str, meters: Sequence[Meter], locks: Sequence[threading.Lock]
) -> Sampler:
    """Poll power sensors in a process of its own, or in a thread where they cannot be sent there.

    ``problem`` of the sampler says why where it had to be a thread.

    Args:
        recipe: from :func:`recipe_of`, taken before the meters were started.
        meters: the same meters, started, for the thread.
        locks: one a meter.
    """
    problem = recipe if isinstance(recipe, str) else ""
    if isinstance(recipe, bytes):
        try:
            process = ProcessSampler(recipe)
            process.start()
            return process
        except (OSError, RuntimeError) as error:
            problem = str(error).splitlines()[0]
    thread = ThreadSampler(meters, locks)
    thread.start()
    thread.problem = f"sampling in a thread, not in a process of its own: {problem}"
    return thread
