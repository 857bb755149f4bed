import dataclasses
import json
import re
import sys
import warnings
from math import inf

import numpy as np
import pytest
from mct_quantizers import QuantizationMethod
from rich.console import Console
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.report import (
    ModelReport,
    QuantizerSensitivity,
    Sensitivity,
    SkippedLayer,
    TensorReport,
    measure,
    print_report,
    to_html,
    to_table,
    words,
    write_html,
)

SYMMETRIC, UNIFORM = QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM
THRESHOLDS = np.float32([1.0, 0.25, 0.5])


def tensor(**changes):
    names = {"layer": "conv", "attribute": "weight", "target": "weights"}
    scheme = {"method": SYMMETRIC, "num_bits": 2, "signed": True, "parameters": {"threshold": np.float32(1.0)}}
    return TensorReport(**{**names, **scheme, **changes})


def per_channel(**changes):
    return tensor(**{"parameters": {"threshold": THRESHOLDS}, "channel_axis": 0, **changes})


def uniform(low, high, **changes):
    params = {"min_range": np.float32(low), "max_range": np.float32(high)}
    return tensor(**{"method": UNIFORM, "parameters": params, "target": "activation", "attribute": "output", **changes})


def quantized(report, x):
    low, high = report.range
    if report.per_channel:
        shape = [1] * x.ndim
        shape[report.channel_axis] = -1
        low, high = low.reshape(shape), high.reshape(shape)
    step = (high - low) / report.grid.num_steps
    return (np.clip(np.rint((x - low) / step), 0, report.grid.num_steps) * step + low).astype(np.float32)


def measured(report, x):
    x = np.asarray(x, np.float32)
    return measure(report, x, quantized(report, x))


def model(*tensors, **changes):
    skipped = (SkippedLayer("bn", "BatchNorm2d", "folded"),)
    accuracies = {"float": 0.982, "quantized": 0.979}
    return dataclasses.replace(ModelReport("net", "PyTorch", tensors, skipped, accuracies), **changes)


COSTS = Sensitivity(
    (QuantizerSensitivity("conv", "weight", 2, 0.03), QuantizerSensitivity("x", "output", 8, 0.01)), 0.05
)


# How values compare with the formulas


FIGURES = {
    "on levels": (tensor(), [-1, -0.5, 0, 0.5], inf, 0, 1),
    "both ends belong to the range": (tensor(), [-1, 0.5], inf, 0, 0.5),
    "off levels and clipped": (tensor(), [-2, 0.25, 0.5, 1], 10 * np.log10(5.3125 / 1.3125), 0.5, 0.75),
    "zeros": (tensor(), [0, 0, 0], inf, 0, 0.25),
    "empty": (tensor(), [], inf, 0, 0),
    "unsigned": (tensor(signed=False), [0.75, 2], 10 * np.log10(4.5625 / 1.5625), 0.5, 0.25),
    "each channel by itself": (per_channel(), [[0.4], [0.4], [0.5]], 10 * np.log10(0.57 / 0.148125), 2 / 3, 0.25),
    "last axis": (per_channel(channel_axis=-1), [[0.4, 0.4, 0.5]], 10 * np.log10(0.57 / 0.148125), 2 / 3, 0.25),
    "uniform": (uniform(-1, 2), [-1, 0, 1, 2], inf, 0, 1),
    "uniform and clipped": (uniform(-1, 2), [-2, 3], 10 * np.log10(13 / 2), 1, 0.5),
}


@pytest.mark.parametrize(("report", "x", "sqnr", "clipped", "levels_used"), FIGURES.values(), ids=FIGURES)
def test_figures_are_those_of_the_formulas(report, x, sqnr, clipped, levels_used):
    found = measured(report, x)
    assert found.sqnr == pytest.approx(sqnr)
    assert found.clipped == pytest.approx(clipped)
    assert found.levels_used == levels_used


def test_noise_on_nothing_is_minus_infinity_decibels():
    assert measure(tensor(), np.zeros(3), np.full(3, 0.5)).sqnr == -inf


HARD = {
    "constant": np.full(5, 1e30),
    "zeros": np.zeros((2, 3)),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(0.3),
    "not finite": [np.nan, np.inf, -np.inf, 0.3, 0.1],
    "nothing finite": [np.nan],
    "denormal": [1e-45, 0.0],
    "neighbours": [1e30, np.nextafter(np.float32(1e30), np.float32(np.inf))],
    "largest": [-3.4e38, 3.4e38, 0.1],
    "beyond float32": [1e300, -1e300, 0.1],
}


@pytest.mark.parametrize("x", HARD.values(), ids=HARD)
@pytest.mark.parametrize(
    "report", [tensor(), tensor(num_bits=16), uniform(-1, 2)], ids=["2 bits", "16 bits", "uniform"]
)
def test_hard_values_are_measured_drawn_and_kept(report, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(report, x, quantized(report, np.clip(np.nan_to_num(x), -1e6, 1e6)))
        page = to_html(model(found))
    assert not np.isnan(found.sqnr)
    assert 0 <= found.clipped <= 1
    assert found.counts.sum() == found.elements - found.not_finite
    assert (np.diff(found.edges) > 0).all()
    assert "nan" not in page.split("</style>")[1].split("<script>")[0]
    assert TensorReport.from_json(found.to_json()) == found


def test_clipped_values_are_counted_bin_by_bin():
    found = measured(per_channel(), [[0.9, 0.1], [0.9, 0.1], [0.1, 0.1]])
    assert found.clipped_counts.sum() == 2
    assert (found.clipped_counts <= found.counts).all()
    assert found.clipped_counts[-1] == 2


# Not measured: activations of a report without data


def test_what_was_not_measured_reads_so_and_never_as_exact():
    report = model(measured(tensor(), [0.3]), uniform(-1, 2), dataclasses.replace(uniform(0, 1), layer="other"))
    page, text = to_html(report), shown(report)
    assert page.count("not measured: the report was made without data") == 2
    assert page.count('<td class="sqnr" data-value="Infinity">–</td>') == 2
    assert text.count("–") == 2 * 3
    for form in (page.split("<script>")[0], text):
        assert "exact" not in form
    assert ModelReport.from_json(report.to_json()) == report


def test_what_was_not_measured_is_never_worst():
    assert model(uniform(-1, 2), measured(tensor(layer="fine"), [0.5])).worst.layer == "fine"
    assert model(uniform(-1, 2)).worst is None
    assert "Lowest SQNR" not in shown(model(uniform(-1, 2)))


# What a report knows


def test_range_of_a_channel_of_median_width_is_typical():
    assert per_channel().typical_range == (-0.5, 0.25)
    assert tensor().typical_range == (-1.0, 0.5)
    assert uniform(-1, 2).typical_range == (-1.0, 2.0)


def test_size_counts_quantized_weights_and_their_parameters():
    weights, activation = measured(per_channel(num_bits=4), np.zeros((3, 8))), measured(uniform(-1, 2), np.zeros(100))
    assert weights.size == (96, 12 + 12)
    assert model(weights, activation).size == (96, 24)
    assert dataclasses.replace(weights, bits_before=16).size == (48, 24)


def test_worst_tensor_is_that_of_the_lowest_ratio():
    good, bad = measured(tensor(), [0.5]), measured(tensor(layer="bad"), [0.2])
    assert model(good, bad).worst is bad
    assert model().worst is None


def test_nothing_is_lost_in_json():
    report = model(
        measured(per_channel(), [[0.9], [np.nan], [0.1]]), measured(uniform(-1, 2), [0.3]), sensitivity=COSTS
    )
    restored = ModelReport.from_json(report.to_json())
    assert restored == report
    assert restored.tensors[0].parameters["threshold"].dtype == np.float32
    assert restored.tensors[0].method is SYMMETRIC
    assert json.loads(report.to_json()) == report.to_dict()
    assert restored != dataclasses.replace(report, model="other")
    assert restored.sensitivity == COSTS
    assert ModelReport.from_json(model().to_json()).sensitivity is None


MISTAKES = {
    "target": (
        lambda: tensor(target="weight"),
        "TensorReport: target must be 'weights' or 'activation', got 'weight'; did you mean 'weights'?.",
    ),
    "method": (
        lambda: tensor(method="power_of_two"),
        "TensorReport: method must be one of POWER_OF_TWO, SYMMETRIC, UNIFORM, LUT_SYM_QUANTIZER, LUT_POT_QUANTIZER, "
        "got 'power_of_two'; only methods of the shipped quantizers are reported.",
    ),
    "bits": (
        lambda: tensor(num_bits="4"),
        "TensorReport: num_bits must be an integer, got '4'; give a plain integer.",
    ),
    "axis": (
        lambda: tensor(channel_axis="<b>"),
        "TensorReport: channel_axis must be an integer, got '<b>'; give a plain integer.",
    ),
    "parameters": (
        lambda: tensor(method=UNIFORM),
        "TensorReport: parameters must be those of a UNIFORM quantizer, got ['threshold']; "
        "give min_range and max_range.",
    ),
    "axis missing": (
        lambda: per_channel(channel_axis=None),
        "TensorReport: threshold must be a scalar, got [1.0, 0.25, 0.5] for 'conv'; "
        "give channel_axis for parameters per channel, and none for one per tensor.",
    ),
    "axis given": (
        lambda: tensor(channel_axis=0),
        "TensorReport: threshold must be of shape (channels,), got 1.0 for 'conv'; "
        "give channel_axis for parameters per channel, and none for one per tensor.",
    ),
    "not finite": (
        lambda: tensor(parameters={"threshold": np.nan}),
        "TensorReport: threshold must be finite, got nan for 'conv'; "
        "pass effective parameters, which are always finite.",
    ),
    "no range": (
        lambda: tensor(parameters={"threshold": 0.0}),
        "TensorReport: parameters must be a range of some width, got {'threshold': 0.0} for 'conv'; "
        "pass effective parameters, which always leave a range.",
    ),
    "shapes": (
        lambda: measure(tensor(), np.zeros(3), np.zeros(4)),
        "measure: y must be of the shape (3,) of x, got (4,) for 'conv'; quantize the same values.",
    ),
    "channels": (
        lambda: measure(per_channel(), np.zeros((2, 3)), np.zeros((2, 3))),
        "measure: x must be of a shape with these channels, got (2, 3) for 'conv' of 3 channels on axis 0; "
        "check channel_axis.",
    ),
    "rank": (
        lambda: measure(per_channel(channel_axis=2), np.zeros((3, 3)), np.zeros((3, 3))),
        "measure: x must be of a shape with these channels, got (3, 3) for 'conv' of 3 channels on axis 2; "
        "check channel_axis.",
    ),
    "unknown key": (
        lambda: ModelReport.from_dict({**model().to_dict(), "tensor": []}),
        "ModelReport: key must be a field of the report, got 'tensor'; did you mean 'tensors'?.",
    ),
    "missing key": (
        lambda: SkippedLayer.from_dict({"name": "bn"}),
        "SkippedLayer: type must be present, got ['name']; add the missing key.",
    ),
    "no error": (
        lambda: Sensitivity.from_dict({**COSTS.to_dict(), "error": -1.0}),
        "Sensitivity: error must be a number, at least 0, got -1.0; divide the error by the power of the outputs.",
    ),
    "no JSON": (
        lambda: ModelReport.from_json("{"),
        "ModelReport: text must be JSON, got '{'; the parser says: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
    ),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(QuantizerError) as caught:
        mistake()
    assert str(caught.value) == message


# The page as text; test_report_browser.py opens it


def test_page_says_what_there_is_to_know():
    page = to_html(model(measured(tensor(), [-2, 0.25, 0.5, 1]), measured(per_channel(), np.ones((3, 5)))))
    for text in (
        "<h1>net</h1>",
        "2 of weights, 0 of activations, in 1 layers",
        "<strong>0.982</strong>",
        "symmetric, signed, per channel",
        "0.25 … 1",
        "<td>BatchNorm2d</td><td>folded</td>",
        "Range of each of the 3 channels on axis 0.",
        "levels from -0.5 to 0.25, 0.25 apart in the channel of median range",
    ):
        assert text in page


def test_page_draws_what_each_quantizer_costs_if_that_was_measured():
    page = to_html(model(measured(tensor(), [0.1]), sensitivity=COSTS))
    assert "All together: 13.0 dB." in page
    for figures in (
        '<td>2</td><td>15.2 dB</td><td class="share" style="--share:100%"><span>75 %</span>',
        '<td>8</td><td>20.0 dB</td><td class="share" style="--share:33%"><span>25 %</span>',
    ):
        assert figures in page
    assert 'id="sensitivity"' not in to_html(model(measured(tensor(), [0.1])))


def test_page_of_an_empty_model_says_so():
    page = to_html(ModelReport("net", "Keras", ()))
    assert "No tensor is quantized." in page
    assert "None." in page


def test_page_asks_for_nothing_from_anywhere():
    page = to_html(model(measured(tensor(), [0.1])))
    assert "http" not in page.replace("http-equiv", "")
    assert not any(f" {name}=" in page for name in ("src", "href"))


def test_large_models_stay_below_three_megabytes():
    thresholds = np.linspace(0.1, 1, 2048, dtype=np.float32)
    wide = tensor(parameters={"threshold": thresholds}, channel_axis=0, num_bits=4)
    wide = measured(wide, np.random.default_rng(0).standard_normal((2048, 9)))
    assert len(to_html(model(*[wide] * 300))) < 3e6


def test_a_page_replaces_an_older_one_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("older")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_html(model(), path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["older"]
    write_html(model(), path)
    assert path.read_text(encoding="utf-8") == to_html(model())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# The terminal


def shown(report, width=140):
    console = Console(width=width)
    with console.capture() as capture:
        print_report(report, console)
    return capture.get()


def test_terminal_shows_rows_reasons_and_totals():
    report = model(measured(tensor(layer="[red]conv[/red]"), [-2, 0.25, 0.5, 1]))
    text = shown(report)
    assert to_table(report).row_count == 1
    for part in ("[red]conv[/red].weight", "symmetric, signed", "50 %", "75 %", "6.1 dB"):
        assert part in text
    assert "left in float: bn (BatchNorm2d): folded" in text
    assert "Accuracy, quantized: 0.979" in text


def test_terminal_shows_what_each_quantizer_costs():
    assert str(COSTS) in shown(model(sensitivity=COSTS))


def test_narrow_terminals_cut_no_figure():
    text = shown(model(measured(per_channel(layer="backbone.stage1.block0.conv" * 3), np.full((3, 4), 0.3))), width=80)
    for part in ("0.25 … 1", "66.7 %", "25 %", "5.7 dB"):
        assert part in text


@pytest.mark.parametrize("show", [to_table, print_report])
def test_without_rich_the_message_says_what_to_install(show, monkeypatch):
    for name in ("rich.text", "rich.console"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as caught:
        show(model())
    assert (
        str(caught.value) == 'rich is needed here, but not installed: pip install "trainable-quantizers-core[report]"'
    )


def test_a_tensor_that_was_not_measured_is_shown():
    tensor = TensorReport("relu", "output", "activation", QuantizationMethod.POWER_OF_TWO, 4, False, {"threshold": 2.0})
    page = to_html(ModelReport("model", "PyTorch", (tensor,)))
    assert "relu" in page
    assert not re.search(r">-?(nan|inf)\b", page.lower())


def test_totals_say_what_share_of_the_work_is_quantized_and_never_round_up_to_all():
    coverage = {"work": 10_000, "quantized_work": 9_999, "sums": 3, "quantized_sums": 2}
    found = model(tensor(), coverage=coverage)
    assert words.totals(found)["Quantized work"] == ("99.9 %", "of the multiply-accumulates, and 2 of 3 sums")
    assert "Quantized work" not in words.totals(model(tensor()))
    assert ModelReport.from_json(found.to_json()) == found
    assert "99.9" in to_html(found)
