"""The table of what each quantizer costs."""

from math import inf

from trainable_quantizers_core.report.sensitivity import QuantizerSensitivity, Sensitivity


def test_what_changes_nothing_has_infinite_sqnr():
    rows = (QuantizerSensitivity("a", "weight", 2, 0.1), QuantizerSensitivity("b", "output", 8, 0.0))
    assert [row.sqnr for row in rows] == [10.0, inf]
    text = str(Sensitivity(rows, 0.0))
    assert "a.weight      2             10.0               100 %" in text
    assert text.endswith("All together: the outputs of the float model.")
