"""Rows of tables as sentences."""

import pytest

from nic_ray.manuals.rows import row_sentences


@pytest.mark.parametrize(
    ("heads", "cells", "sentence"),
    [
        (["Pump pressure", "Test point"], ["45 bar", "MP2"], "Pump pressure: 45 bar; Test point: MP2."),
        (["Item", "LED", "Remedy"], ["Pump", "red", "Drain it."], "Item: Pump; LED: red; Remedy: Drain it."),
        (["Item:", "Torque"], ["Bolt", ""], "Item: Bolt."),
        (["Item", ""], ["Bolt", "M8 only"], "Item: Bolt; M8 only."),
        (["Item", "", ""], ["Bolt", "M8", "two"], "Item: Bolt; M8; two."),
        ([], ["Pump pressure", "45 bar", "at 50 °C"], "Pump pressure: 45 bar; at 50 °C."),
        ([], ["Pump pressure:", "45 bar"], "Pump pressure: 45 bar."),
        ([], ["Only this!"], "Only this!"),
    ],
)
def test_a_row_is_a_sentence(heads, cells, sentence):
    assert row_sentences([heads, cells] if heads else [cells], int(bool(heads))) == [sentence]
