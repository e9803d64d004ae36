"""A search space's dimensions: the values that each hyperparameter may take."""

import math
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from nic_ray.validation import Section, shown_value


def _choice(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)  # PyYAML reads 2e-5 as text
        except ValueError:
            return value
    known = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if not known or (value is not None and not math.isfinite(value)):
        raise ValueError(f"must be a number, a name or null, got {shown_value(value)}")
    return value


Value = Annotated[
    int | float | str | None, PlainValidator(_choice), WithJsonSchema({"type": ["number", "string", "null"]})
]
"""A value of a hyperparameter."""


class Dimension(Section):
    """The values that a hyperparameter may take: exactly one of these three."""

    log_uniform: tuple[float, float] | None = Field(None, description="low, high: even on a log scale")
    uniform: tuple[float, float] | None = Field(None, description="low, high: even")
    choice: tuple[Value, ...] | None = Field(None, description="a list of values")

    @model_validator(mode="after")
    def _is_one_sound_range(self) -> Self:
        kinds = [name for name in ("log_uniform", "uniform", "choice") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"want exactly one of log_uniform, uniform, choice; got {', '.join(kinds) or 'none'}")
        bounds = self.log_uniform or self.uniform
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"the low end must be below the high end, got {list(bounds)}")
        if self.choice == ():
            raise ValueError("choice must be a list of one value or more, got []")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform needs a low end > 0, got {self.log_uniform[0]}")
        return self

    def contains(self, value: Any) -> bool:
        """Whether a value is among the choices or within the range."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.log_uniform or self.uniform or (0, 0)
        return isinstance(value, int | float) and low <= value <= high

    def ends(self) -> tuple[Any, ...]:
        """The choices, or the two ends of the range; if these are legal, so is every value of the dimension."""
        return self.choice or self.log_uniform or self.uniform or ()
