"""A world in which time, power and other people's load are what a test says."""

import math
from pathlib import Path

import pytest

from ttq_energy.measurement.machine import MachineState
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading

TRACES = Path(__file__).parents[2] / ".." / "shared" / "data" / "power-traces"


@pytest.fixture
def traces():
    if not TRACES.is_dir():
        pytest.skip("the recorded power traces are not beside the checkout")
    return TRACES


class World:
    """A clock that only the test moves, and the energy drawn while it moves."""

    def __init__(self, idle_w=10.0):
        self.now = 1000.0
        self.energy_j = 0.0
        self.idle_w = idle_w
        self.busy_s = self.own_s = 0.0

    def clock(self):
        return self.now

    def advance(self, seconds, power_w=None):
        self.now += seconds
        self.energy_j += seconds * (self.idle_w if power_w is None else power_w)

    def work(self, seconds, power_w):
        """This process computes."""
        self.advance(seconds, power_w)
        self.busy_s += seconds
        self.own_s += seconds


class Counter(Meter):
    """A counter of the world's energy, updated every period in steps."""

    name = "fake"

    def __init__(self, world, domain="cpu-package-0", period_s=0.001, step_j=0.0, **options):
        self.world = world
        options = {"provenance": Provenance.COUNTER, "component": "cpu", **options}
        self._domains = (
            Domain(
                domain, covers="the world", update_period_s=period_s, resolution_j=step_j, **options
            ),
        )
        self.error = None
        self.share = 1.0
        self.extra_conditions = {}
        self.reads = 0

    @property
    def domains(self):
        return self._domains

    def start(self):
        pass

    def stop(self):
        pass

    def read(self):
        self.reads += 1
        domain = self._domains[0]
        if self.error:
            return [Reading(domain.name, self.world.now, error=self.error)]
        energy = self.world.energy_j * self.share
        if domain.resolution_j:
            energy = math.floor(energy / domain.resolution_j) * domain.resolution_j
        return [Reading(domain.name, self.world.now, energy_j=energy)]

    def conditions(self):
        return dict(self.extra_conditions)

    @classmethod
    def probe(cls):
        raise NotImplementedError


class FakeMachine:
    """The machine of a world."""

    def __init__(self, world):
        self.world = world
        self.cores = 2
        self.clock_mhz = 3000.0
        self.throttle_count = 0.0

    def clock(self):
        return self.world.now

    def sleep(self, seconds):
        self.world.advance(seconds)

    def state(self):
        return MachineState(
            t_s=self.world.now,
            busy_s=self.world.busy_s,
            own_s=self.world.own_s,
            load_average=0.5,
            clock_mhz=self.clock_mhz,
            temperature_c=50.0,
            throttle_count=self.throttle_count,
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def machine(world):
    return FakeMachine(world)


@pytest.fixture
def counter(world):
    """Makes counters of the world."""

    def make(*args, **options):
        return Counter(world, *args, **options)

    return make
