"""Values with units in English text, and how one asks for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.questions.language import NUMBER_WORDS

_UNITS = {
    "torque": "N·m N-m Nm N.m lb-ft ft-lb lbf·ft in-lb",
    "pressure": "bar mbar kPa MPa psi Pa hPa micron microns",
    "voltage": "V mV kV VDC VAC volt volts",
    "current": "A mA µA amp amps ampere amperes",
    "power": "W kW watt watts",
    "resistance": "Ω kΩ MΩ ohm ohms",
    "temperature": "°C °F °K",
    "length": "mm cm m km µm inch inches metre metres meter meters kilometre kilometres",
    "time": "s ms sec min h second seconds minute minutes hour hours day days week weeks month months year years",
    "mass": "kg g t tonne tonnes lb lbs grams kilograms",
    "volume": "litre litres liter liters l L ml mL cm³",
    "speed": "rpm km/h mph m/s r/min l/min",
    "frequency": "Hz kHz MHz GHz",
    "level": "dB dBm dBZ",
    "percentage": "% percent",
    "angle": "° degree degrees",
    "count": "times turns strokes",
}
_QUANTITY = {unit: quantity for quantity, units in _UNITS.items() for unit in units.split()}
UNITS = frozenset(unit.lower() for unit in _QUANTITY)
"""All known units, in lower case."""
_PLURALS = {
    "litre": "litres",
    "liter": "liters",
    "turn": "turns",
    "ton": "tons",
    "tonne": "tonnes",
    "metre": "metres",
    "meter": "meters",
    "degree": "degrees",
    "°": "degrees",
    "mm": "millimetres",
    "cm": "centimetres",
    "m": "metres",
    "kg": "kilograms",
    "g": "grams",
    "%": "percent",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "t": "tonnes",
    "l": "litres",
    "ml": "millilitres",
}
_NUMBER = re.compile(r"[+±-]?\d+(?:[.,]\d+)*")
_NUMBER_WITH_UNIT = re.compile(r"([+±-]?\d+(?:[.,]\d+)*)(%|°|°C|°F|[a-zA-ZΩµ·/]+)$")
_BEFORE = frozenset("about approximately roughly exactly only least most around over under nearly just".split())
WHAT = frozenset("torque pressure voltage current power resistance temperature speed frequency percentage".split())
"""Quantities that "what" goes with."""


@dataclass(frozen=True)
class Value:
    """A number with its unit among the tokens of a clause."""

    start: int
    """The first token: "at least" and the like belong to it."""
    end: int
    """The token after the last one."""
    quantity: str
    unit: str

    @property
    def how_many(self) -> str:
        """The start of a question for it: "What pressure", "How long", "How many litres"."""
        if self.quantity in WHAT:
            return f"What {self.quantity}"
        if self.quantity == "time":
            return "How long"
        if self.quantity == "level":
            return f"How many {self.unit}"
        return f"How many {_PLURALS.get(self.unit, self.unit)}"


def values_in(tokens: Sequence[str]) -> list[Value]:
    """Find the numbers with units among tokens, ranges as one ("35 to 45 °C")."""
    found: list[Value] = []
    place = 0
    while place < len(tokens):
        value = _value_at(tokens, place)
        if value is None:
            place += 1
            continue
        found.append(value)
        place = value.end
    return found


def _value_at(tokens: Sequence[str], place: int) -> Value | None:
    start = place
    if not _is_number(tokens[place]):
        glued = _NUMBER_WITH_UNIT.fullmatch(tokens[place])
        if glued and glued[2] in _QUANTITY and len(glued[2]) <= 3 and glued[2] in ("%", "°", "°C", "°F"):
            return Value(_with_before(tokens, start), place + 1, _QUANTITY[glued[2]], glued[2])
        return None
    place += 1
    while place + 1 < len(tokens) and (
        tokens[place] in ("to", "and", "or", "-", "–") and _is_number(tokens[place + 1])
    ):
        place += 2
    if place < len(tokens) and tokens[place] == "ampere-hour":
        return None
    if place < len(tokens) and tokens[place] in _QUANTITY:
        unit = tokens[place]
        return Value(_with_before(tokens, start), place + 1, _QUANTITY[unit], unit)
    return None


def _with_before(tokens: Sequence[str], start: int) -> int:
    while start > 0 and tokens[start - 1].lower() in _BEFORE:
        start -= 1
    if start > 0 and tokens[start - 1].lower() == "at" and tokens[start].lower() in ("least", "most", "about"):
        start -= 1
    return start


def _is_number(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None or token.lower() in NUMBER_WORDS
