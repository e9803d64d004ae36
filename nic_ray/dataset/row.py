"""The fields of a row in a file of pairs, with their checks."""

import math
from datetime import date, time
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nic_ray.dataset.form import Form
from nic_ray.dataset.own_splits import WANT, part_named
from nic_ray.metrics.table import OVER_ALL
from nic_ray.validation import Unreadable, is_whole, kind_of_value


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return _whole(text)


def _whole(text: str) -> str:
    if not is_whole(text):
        raise ValueError("holds half a character, such as \\ud83d without the half that follows it; write it whole")
    return text


def domain_name(name: str) -> str:
    """Check the name of a domain, which becomes the end of metric keys and appears in tables.

    Raises:
        ValueError: it would not do.
    """
    if "/" in name or not name.isprintable() or name != name.strip():
        start = name if len(name) <= 40 else name[:39] + "…"
        raise ValueError(f'must be printable, without "/" and spaces at its ends: metric keys end in it; got {start!r}')
    if name in OVER_ALL:
        raise ValueError(f'must not be "{name}", which names a figure over all domains')
    return name


def _listed(value: Any) -> Any:
    return [_not_empty(value)] if isinstance(value, str) else value


def _listed_or_none(value: Any) -> Any:
    return [] if value is None else _listed(value)


Text = Annotated[str, AfterValidator(_not_empty)]


def _named(value: Any) -> Any:
    """Return a domain that is given as a number, a date or a time, or as true or false, as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, int | Decimal) else value


def _document_name(value: Any) -> Any:
    """Return what names a document as text; None for what names none, such as an empty text or an object."""
    if isinstance(value, Unreadable):
        raise ValueError(f"must be text, got {kind_of_value(value)}")
    name = _named(value)
    return _whole(name) if isinstance(name, str) and name.strip() else None


def _kind_name(value: Any) -> Any:
    """Return what names a kind as text; None for what names none, as of a column that holds something else."""
    if isinstance(value, bool):
        return None
    name = _document_name(value)
    return name.strip() if name is not None and name.strip().isprintable() else None


def _yes_or_no(value: Any) -> Any:
    """Return true or false; a table's cells hold them as text or as numbers."""
    if value is None:
        return False
    if isinstance(value, str | int | float):
        given = str(value).strip().casefold()
        known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
        if given in known:
            return known[given]
    got = repr(value[:40]) if isinstance(value, str) and _is_shown(value) else kind_of_value(value)
    raise ValueError(f"must be true or false, in a table also 1 or 0, got {got}")


def _is_shown(text: str) -> bool:
    return is_whole(text) and text.isprintable()


def _wholes(value: Any) -> Any:
    """Return a list of passages, or of null for each positive that nothing was cut from."""
    return value if isinstance(value, list) else [value]


def _numbers(value: Any) -> Any:
    """Return a list of numbers; a table's cells hold them as text."""
    if isinstance(value, list):
        return [_number(each) for each in value]
    return [1.0] if value is None else [_number(value)]


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str | int) and not isinstance(value, bool) else value
    except ValueError:
        return value
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _relevance(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError(f"must be a finite number, got {score:g}; leave it out where there is none")
    if score <= 0:
        raise ValueError(
            f"must be above 0, got {score:g}: a row names a passage that answers its query; leave it out, or name the "
            "passage as a negative"
        )
    return score


class Row(BaseModel):
    """A row as it stands in a file, under the names of the fields."""

    model_config = ConfigDict(strict=True)

    query: Text
    positive: Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1)]
    domain: Annotated[Text, BeforeValidator(_named), AfterValidator(domain_name)]
    negative: Annotated[list[Text], BeforeValidator(_listed_or_none)] = Field(default_factory=list)
    source_section: Annotated[str, AfterValidator(_whole)] | None = None
    document: Annotated[str | None, BeforeValidator(_document_name)] = None
    score: Annotated[list[Annotated[float, AfterValidator(_relevance)]], BeforeValidator(_numbers)] = Field(
        default_factory=lambda: [1.0]
    )
    kind: Annotated[str | None, BeforeValidator(_kind_name)] = None
    synthetic: Annotated[bool, BeforeValidator(_yes_or_no)] = False
    cut_from: Annotated[list[Text | None], BeforeValidator(_wholes)] = [None]

    @model_validator(mode="after")
    def _scores_go_with_positives(self) -> Self:
        if len(self.score) not in (1, len(self.positive)):
            wanted = "one number" if len(self.positive) == 1 else f"one number, or {len(self.positive)}, one a positive"
            raise ValueError(f'"score" must hold {wanted}; got {len(self.score) or "none"}')
        return self

    @model_validator(mode="after")
    def _wholes_go_with_positives(self) -> Self:
        if self.cut_from != [None] and len(self.cut_from) != len(self.positive):
            raise ValueError(
                f'"cut_from" must hold {len(self.positive)}, the whole passage or null for each positive; got '
                f"{len(self.cut_from) or 'none'}"
            )
        return self


def _part_of(name: str) -> str:
    if (part := part_named(name)) is None:
        raise ValueError(f"must be {WANT}, got {name[:40]!r}")
    return part


class OwnRow(Row):
    """A row with the part that it came with."""

    split: Annotated[str, AfterValidator(_part_of)]


def kind_of_rows(form: Form) -> type[Row]:
    """Return what a row is validated as."""
    return OwnRow if form.own_splits else Row
