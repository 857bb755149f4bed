"""Look-up tables: their effective entries, their start, and where they are written."""

import numpy as np
import pytest
from trainable_quantizers_core import (
    LUT_VALUES,
    THRESHOLD,
    ActivationsScheme,
    QuantizationMethod,
    QuantizerError,
    Recipe,
    TensorStatistics,
    WeightsScheme,
    activation_parameters,
    weights_parameters,
)
from trainable_quantizers_core.graph.summary import scheme_in_words
from trainable_quantizers_core.quantizer.array_ops import NUMPY_OPS
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_core.quantizer.table import effective_table, look_up, look_up_gradients, table_gradient
from trainable_quantizers_core.report import TensorReport, measure
from trainable_quantizers_core.report.drawing import histogram
from trainable_quantizers_core.report.words import parameters, scheme
from trainable_quantizers_core.training.parameter_file import QuantizerState, load_parameters, save_parameters

SIGNED = Grid(8, signed=True)
LEVELS = np.float32([-64, 0, 0, 32])
WEIGHT = np.random.default_rng(0).standard_t(5, (8, 16, 3, 3)).astype(np.float32)


def test_ties_take_the_lower_entry_and_infinities_the_ends():
    x = np.float32([-0.25, 0.125, np.nextafter(np.float32(0.125), np.float32(1)), np.inf, -np.inf])
    assert look_up(NUMPY_OPS, x, np.float32(1), LEVELS, SIGNED).tolist() == [-0.5, 0.0, 0.25, 0.25, -0.5]


def test_equal_entries_share_their_values_by_the_side():
    x, g = np.float32([-0.1, 0.1, 0.0]), np.float32([1, 10, 100])
    _, _, of_levels = look_up_gradients(NUMPY_OPS, g, x, np.float32(1), LEVELS, SIGNED, [0])
    assert (of_levels * 128).tolist() == [0, 1, 110, 0]


def test_entries_beyond_the_grid_only_come_back():
    table = np.float32([0.5, -1.5, 1.5])  # in effect 64, -128 and 127
    assert effective_table(NUMPY_OPS, table, SIGNED).tolist() == [-128, 64, 127]
    rising = table_gradient(NUMPY_OPS, table, np.float32([-1, -2, -3]), SIGNED)
    falling = table_gradient(NUMPY_OPS, table, np.float32([1, 2, 3]), SIGNED)
    assert (rising / 128).tolist() == [-2, -1, 0]
    assert (falling / 128).tolist() == [2, 0, 3]


def test_an_entry_next_to_zero_is_zero_without_a_sign():
    assert not np.signbit(effective_table(NUMPY_OPS, np.float32([-0.001]), SIGNED)).any()


def error(method, bits, **fields):
    """Σ (y - x)², relative, of the calibrated weight."""
    found = weights_parameters(WEIGHT, WeightsScheme(method=method, num_bits=bits, **fields), 0).params
    threshold = found[THRESHOLD].reshape(-1, 1, 1, 1)
    if LUT_VALUES in found:
        threshold = 2.0 ** np.ceil(np.log2(threshold)) if method == "lut_power_of_two" else threshold
        levels = np.float32(found[LUT_VALUES])
        y = look_up(NUMPY_OPS, WEIGHT, np.float32(threshold), levels, SIGNED)
    else:
        step = threshold / 2 ** (bits - 1)
        y = np.clip(np.rint(WEIGHT / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    return ((y - WEIGHT) ** 2).sum() / (WEIGHT**2).sum()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_fitted_table_loses_less_than_evenly_spaced_levels(bits):
    assert error("lut_power_of_two", bits) < 0.95 * error("power_of_two", bits)
    assert error("lut_symmetric", bits) < 0.95 * error("symmetric", bits)
    assert error("lut_symmetric", bits) < error("lut_symmetric", bits, calibration="min_max")


def test_few_distinct_values_are_kept_exactly():
    weight = np.float32([[0.5, -0.25, 0.125, 0.0]] * 3)
    found = weights_parameters(weight, WeightsScheme(method="lut_power_of_two", num_bits=2, calibration="min_max"), 0)
    assert (
        look_up(NUMPY_OPS, weight, np.float32(0.5), np.float32(found.params[LUT_VALUES]), SIGNED).tolist()
        == [[127 / 256, -0.25, 0.125, 0.0]] * 3
    )


def test_powers_of_two_start_between_two_exponents():
    found = weights_parameters(WEIGHT, WeightsScheme(method="lut_power_of_two", num_bits=3), 0)
    assert np.allclose(np.log2(found.params[THRESHOLD]) % 1, 0.5, atol=1e-6)


def test_activations_have_a_table_too_with_zero_among_what_it_fits():
    statistics = TensorStatistics()
    statistics.update(np.maximum(np.random.default_rng(0).normal(size=10_000), 0).astype(np.float32))
    found = activation_parameters(statistics, ActivationsScheme(method="lut_power_of_two", num_bits=3)).params
    assert found["is_signed"] is False
    assert found[LUT_VALUES] == sorted(found[LUT_VALUES])
    assert 0 <= found[LUT_VALUES][0] <= 2
    empty = TensorStatistics()
    empty.update(np.zeros(4, np.float32))
    spread = activation_parameters(empty, ActivationsScheme(method="lut_power_of_two", num_bits=2)).params
    assert spread[LUT_VALUES] == [0, 64, 128, 192]


def test_recipes_name_the_methods_in_words():
    recipe = Recipe({"method": "lut_symmetric", "num_bits": 4}, {"method": "lut_power_of_two", "num_bits": 4})
    assert recipe.weights.method is QuantizationMethod.LUT_SYM_QUANTIZER
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert scheme_in_words(recipe.weights) == "4-bit look-up table, symmetric, LSQ, per channel"


REFUSED = [
    ({"num_bits": 8}, "num_bits must be in 2..7 for a look-up table, got 8; give it fewer bits"),
    ({"num_bits": 4, "accumulator_bits": 16}, "accumulator_bits must be None with a look-up table, got 16; choose"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=["bits", "accumulator"])
def test_schemes_that_a_table_cannot_have_are_refused(fields, message):
    with pytest.raises(QuantizerError, match=message):
        WeightsScheme(method="lut_power_of_two", **fields)


def report(**changes):
    fields = {"threshold": np.float32([1.0, 2.0]), "table": LEVELS}
    return TensorReport(
        "conv", "weight", "weights", QuantizationMethod.LUT_POT_QUANTIZER, 2, True, {**fields, **changes}, 0
    )


def test_reports_know_the_entries():
    x = np.float32([[-0.5, 0.0, 0.25], [-1.0, 0.0, 0.0]])
    measured = measure(report(), x, x)
    assert measured.levels_used == 0.75
    assert measured.size[1] == (6 * 2 + 2 * 32 + 4 * 8) / 8
    assert TensorReport.from_json(measured.to_json()) == measured
    assert scheme(measured) == "look-up table, power of two, signed, per channel"
    assert parameters(measured) == "1 … 2"
    assert len(set(histogram(measured).split('class="levels"')[1].split('"')[1].split("M")[1:])) == 3
    with pytest.raises(QuantizerError, match=r"table must be of 4 levels, got \[1.0\]"):
        report(table=np.float32([1]))


def test_parameter_files_hold_tables(tmp_path):
    values = {"threshold": np.float32([1.0, 2.0]), "table": LEVELS / 128}
    facts = {"layer": "conv", "attribute": "weight", "target": "weights", "quantizer": "Q", "num_bits": 2}
    method = QuantizationMethod.LUT_POT_QUANTIZER
    state = QuantizerState(**facts, method=method, signed=True, per_channel=True, values=values)
    save_parameters(tmp_path / "file", [state])
    (restored,) = load_parameters(tmp_path / "file")
    assert restored.channels == 2
    assert restored.values["table"].tolist() == values["table"].tolist()
    with pytest.raises(QuantizerError, match=r"table of conv.weight must be of shape \(4,\), got \(3,\)"):
        QuantizerState(**facts, method=method, signed=True, per_channel=True, values={**values, "table": LEVELS[1:]})
