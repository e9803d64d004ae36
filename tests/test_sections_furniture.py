"""What stands on every page is left out where paper was converted, and nothing else."""

import pytest

from nic_ray.manuals.blocks import Block
from nic_ray.manuals.furniture import without_furniture


def kept(*lines: str, times: int = 6) -> list[str]:
    """What is left of lines that stand after each of some paragraphs; "{n}" counts the paragraphs."""
    blocks = []
    for number in range(times):
        blocks.append(Block("paragraph", f"This is what paragraph {'abcdefgh'[number]} of the manual says."))
        blocks += [Block("paragraph", line.format(n=number + 3)) for line in lines]
    return [block.text for block in without_furniture(blocks) if not block.text.startswith("This is")]


@pytest.mark.parametrize(
    "lines",
    [
        ("Page {n} of 80",), ("{n}",), ("- {n} -",), ("Seite {n}",), ("Workshop manual {n}",), ("DRAFT",),
        ("Rev. C of the manual", "{n} / 80"), ("Page {n} of 80.",),
    ],
)  # fmt: skip
def test_page_numbers_and_what_stands_beside_them_is_left_out(lines):
    assert kept(*lines) == []


@pytest.mark.parametrize(
    ("lines", "times"),
    [
        (("Page {n} of 80",), 2), (("See table {n}.",), 6), (("#define WDTO {n}",), 6), (("Example:",), 6),
        (("WARNING",), 6), (("$ make install",), 6), (("Press the button",), 6), (("DRAFT",), 4),
        (("Fill in oil of type 5",), 6),
    ],
)  # fmt: skip
def test_what_may_be_text_stays(lines, times):
    assert len(kept(*lines, times=times)) == times
