"""Models of sampled power sensors: how a reading follows the true power."""

from __future__ import annotations

from dataclasses import dataclass

from ttq_energy.meters.base import Domain


@dataclass(frozen=True)
class Sensor:
    """One kind of power reading.

    Attributes:
        name: for people.
        update_period_s: between fresh values.
        window_s: length of the average that a fresh value shows.
        gain_sd: relative standard deviation of the gain over boards of this kind.
        offset_sd_w: standard deviation of the offset over boards, W.
    """

    name: str
    update_period_s: float
    window_s: float
    gain_sd: float = 0.0
    offset_sd_w: float = 0.0

    @property
    def tail_s(self) -> float:
        return self.window_s + 2.0 * self.update_period_s

    @property
    def reach_s(self) -> float:
        return self.window_s + 2.0 * self.update_period_s

    @property
    def minimum_s(self) -> float:
        return 2.0 * self.update_period_s


def sensor_of(domain: Domain) -> Sensor:
    return Sensor(domain.name, domain.update_period_s, domain.update_period_s)
