"""Pairs written again without rows that do harm, by the codes of findings."""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from nic_ray.dataset.form import Form
from nic_ray.dataset.formats import files_of, format_named, write_rows
from nic_ray.dataset.lint import RULES, Finding
from nic_ray.dataset.pairs import Pair, row_of
from nic_ray.errors import InputError
from nic_ray.sources import Sources


def parse_codes(names: str, option: str) -> list[str]:
    """Parse a list of codes with commas between them.

    Args:
        option: name of the option that the list was given to, for the error message.

    Raises:
        InputError: a code does not exist.
    """
    codes = [name.strip() for name in names.split(",") if name.strip()]
    for code in codes:
        if code not in RULES:
            near = difflib.get_close_matches(code, RULES, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(f'{option}: no finding is called "{code}"; {meant}There are: {", ".join(RULES)}')
    return codes


def write_clean(
    source: Sources, pairs: Sequence[Pair], findings: Sequence[Finding], codes: Collection[str], out: Path, form: Form
) -> dict[str, int]:
    """Copy a file, or several into one, without the rows of some findings.

    From JSONL to JSONL it is copied byte for byte, else with the fields of pairs.

    Args:
        source: the file that was checked, or several.
        pairs: all of its rows.
        findings: all findings in it.
        codes: codes of the findings whose rows are left out.
        out: the copy, a file that does not exist yet, in the format of its ending.
        form: how the source was read.

    Returns:
        code -> number of rows left out because of it; a row may count for several codes.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    lines = {finding.code: finding.lines for finding in findings if finding.code in codes}
    dropped = set().union(*lines.values())
    written = format_named(out)
    try:
        first, *others = files_of(source)
        if not others and (format_named(first, form.format), written) == ("jsonl", "jsonl"):
            with first.open("rb") as original, out.open("xb") as kept:
                kept.writelines(line for number, line in enumerate(original, start=1) if number not in dropped)
        else:
            out.open("xb").close()
            write_rows(out, [row_of(pair) for pair in pairs if pair.line not in dropped], written)
    except FileExistsError:
        raise InputError(f"{out}: exists already; name another file") from None
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from None
    return {code: len(numbers) for code, numbers in lines.items()}
