"""CodeCarbon's carbon factors, read from its own data file: no network, no look-up of a place."""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttq_energy.errors import InputError, nearest

_FILE = "data/private_infra/global_energy_mix.json"
J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class CarbonFactor:
    """Grams of CO2 equivalents per joule of a country's electricity, and the year it is of."""

    code: str
    country: str
    g_per_kwh: float
    year: str

    @property
    def g_per_j(self) -> float:
        return self.g_per_kwh / J_PER_KWH


def country_factor(code: str) -> CarbonFactor:
    """The factor of a country by its ISO 3166-1 alpha-3 code, such as "FRA".

    Source: the file global_energy_mix.json that CodeCarbon ships (Our World in Data, Ember).

    Raises:
        InputError: no such country, or no factor for it, or CodeCarbon is not installed.
    """
    mix = _energy_mix()
    name = code.strip().upper()
    if name not in mix:
        names = {str(entry.get("country_name", "")): key for key, entry in mix.items()}
        by_name = nearest(code, names)
        close = names[by_name] if by_name and len(name) > 3 else nearest(name, mix)
        hint = f"; did you mean '{close}' ({mix[close].get('country_name')})?" if close else ""
        raise InputError(
            f"country: '{code}' is not an ISO 3166 code of three letters that CodeCarbon has a "
            f"factor for{hint}"
        )
    entry = mix[name]
    factor = entry.get("carbon_intensity")
    if not isinstance(factor, (int, float)):
        raise InputError(f"country: CodeCarbon has no carbon factor for '{name}'")
    country = str(entry.get("country_name", name))
    return CarbonFactor(name, country, float(factor), str(entry.get("year", "")))


@functools.cache
def _energy_mix() -> dict[str, dict[str, Any]]:
    # find_spec does not run CodeCarbon's own imports, which look at the machine.
    spec = importlib.util.find_spec("codecarbon")
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        file = Path(place) / _FILE
        if file.is_file():
            data: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
            return data
    raise InputError(f"country: CodeCarbon's {_FILE} was not found; reinstall codecarbon")
