"""Converted models in files, and what the files compute."""

import re
import resource
from contextlib import contextmanager
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS
from trainable_quantizers_core.files import optional
from trainable_quantizers_core.report import write_html

EXPORTED = ("residual", "inverted", "shared", "own layer", "attention", "encoder", "recurrent", "vision transformer")
LARGE = ("encoder", "recurrent", "vision transformer")


def deployed(name="residual", bits=4, method="power_of_two", granularity="per_channel", weight_bits=None):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    weights = {"num_bits": weight_bits or bits, "method": method, "granularity": granularity}
    recipe = tq.Recipe(weights, {"num_bits": bits, "method": method})
    return tq.convert(tq.prepare(build(), recipe, [inputs], verbose=False).eval()), inputs


def output_step(model):
    quantizers = [m.activation_holder_quantizer for m in model.modules() if hasattr(m, "activation_holder_quantizer")]
    return float(getattr(quantizers[-1], "scale", None) or quantizers[-1].scales)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LARGE)) for name in EXPORTED])
def test_a_network_in_onnx_computes_what_the_model_computes(name, tmp_path):
    # kernels of x64 processors without VNNI add pairs of 8 by 8 bit products in 16 bits, where they may saturate
    model, inputs = deployed(name, bits=8, weight_bits=7)
    found = tq.export(model, tmp_path / "model.onnx", inputs)
    onnx.checker.check_model(tmp_path / "model.onnx")
    # float convolutions of two runtimes differ in the last bits, which ties turn into steps
    assert found.largest <= 4.001 * output_step(model), str(found)


class Tables(nn.Module):
    """Tables of weights, whose entries are quantized once more."""

    def __init__(self):
        super().__init__()
        self.per_channel, self.per_tensor = nn.Embedding(40, 6), nn.Embedding(40, 6)

    def forward(self, tokens):
        return self.per_channel(tokens) * 1.0, self.per_tensor(tokens) * 1.0


@pytest.mark.parametrize("bits", [2, *(pytest.param(bits, marks=pytest.mark.long) for bits in (3, 4)), 8])
@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_quantizers_in_onnx_are_exact(method, bits, tmp_path):
    """Nothing else computes here."""
    torch.manual_seed(bits)
    scheme = {"num_bits": bits, "method": method}
    rules = [tq.LayerRule(name=each, weights={"granularity": each}) for each in ("per_channel", "per_tensor")]
    tokens = torch.arange(40)
    model = tq.convert(tq.prepare(Tables(), tq.Recipe(scheme, scheme, rules=rules), [tokens], verbose=False))
    kinds = [layer.weights_quantizers["weight"].per_channel for layer in (model.per_channel, model.per_tensor)]
    assert kinds == [True, False]
    found = tq.export(model, tmp_path / "tables.onnx", tokens)
    # QuantizeLinear divides by the step where mct-quantizers multiplies by its inverse, which for powers of two is one
    share = 0 if method == "power_of_two" else 0.02
    assert len(found.outputs) == 2
    assert all(each.differing <= share * each.elements for each in found.outputs), str(found)


def test_weights_are_stored_as_integers_and_activations_have_quantize_nodes(tmp_path):
    model, inputs = deployed(bits=4)
    tq.export(model, tmp_path / "model.onnx", inputs)
    graph = onnx.load(tmp_path / "model.onnx").graph
    stored = {tuple(each.dims): each.data_type for each in graph.initializer}
    assert stored[(8, 3, 3, 3)] == onnx.TensorProto.INT8
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == 6
    assert kinds.count("DequantizeLinear") == 6 + 3


def test_the_file_takes_other_batches(tmp_path):
    model, inputs = deployed(bits=8)
    tq.export(model, tmp_path / "model.onnx", inputs)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = torch.randn(7, 3, 8, 8)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        wanted = model(images).numpy()
    assert (np.abs(found - wanted) > 1e-5).mean() <= 0.05


class OfDictionary(nn.Module):
    """A dictionary in, and out; one tensor twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, batch, scale=None):
        x = self.a(batch["image"]) + self.b(batch["meta"])
        x = x if scale is None else x * scale
        return {"classes": x, "image": x.relu(), "pair": (x, x)}


@pytest.mark.parametrize("operators", ["standard", "mct"])
def test_inputs_and_outputs_in_onnx_are_named_as_in_the_model(operators, tmp_path):
    batch = {"image": torch.randn(5, 4), "meta": torch.randn(5, 3)}
    recipe = tq.Recipe(tq.WeightsScheme(), None)
    model = tq.convert(tq.prepare(OfDictionary(), recipe, [(batch,)], verbose=False).eval())
    given = {"batch": batch, "scale": torch.full((5, 1), 0.5)}
    tq.export(model, tmp_path / "model.onnx", given, operators=operators)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [each.name for each in graph.input] == ["batch.image", "batch.meta", "scale"]
    assert [each.name for each in graph.output] == ["classes", "image", "pair.0", "pair.1"]


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_one_example_is_enough_for_files_that_take_more(suffix, tmp_path):
    model, (images,) = deployed(bits=8)
    found = tq.export(model, tmp_path / f"model.{suffix}", images[:1])
    assert found.elements == 5
    if suffix == "pt2":
        assert torch.export.load(tmp_path / "model.pt2").module()(images).shape == (4, 5)


def test_a_file_that_takes_no_other_sizes_is_refused_unless_it_is_asked_for(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x).reshape(3, 4)

    x = torch.randn(3, 4)
    model = tq.convert(tq.prepare(Fixed(), tq.Recipe({}, {}), [x], verbose=False).eval())
    with pytest.raises(tq.QuantizerError, match="sizes='fixed'"):
        tq.export(model, tmp_path / "model.pt2", x)
    assert not list(tmp_path.iterdir())
    assert tq.export(model, tmp_path / "model.pt2", x, sizes="fixed").identical


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
def test_operators_of_mct_quantizers(method, tmp_path):
    model, inputs = deployed(bits=4, method=method)
    found = tq.export(model, tmp_path / "model.onnx", inputs, operators="mct")
    assert found.largest <= 4.001 * output_step(model), str(found)
    domains = {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert any("mct" in domain for domain in domains)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LARGE)) for name in EXPORTED])
def test_a_program_is_identical(name, tmp_path):
    model, inputs = deployed(name)
    assert tq.export(model, tmp_path / "model.pt2", inputs, sizes="fixed" if name == "shared" else "free").identical
    assert (tmp_path / "model.pt2").stat().st_size > 0


def test_the_model_stays_as_it_is(tmp_path):
    model, inputs = deployed()
    model.train()
    before = [type(module) for module in model.modules()]
    tq.export(model, tmp_path / "model.onnx", inputs)
    assert [type(module) for module in model.modules()] == before
    assert model.training


def wide():
    return deployed(bits=16)


MISTAKES = {
    "another suffix": (deployed, "model.tflite", {}, "that of an .onnx, .pt2 or .c file"),
    "other operators": (deployed, "model.onnx", {"operators": "standart"}, "did you mean 'standard'?"),
    "16 bits": (wide, "model.onnx", {}, "must be evenly spaced levels of at most 8 bits in layers, got '16 bits'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained_and_nothing_is_written(mistake, tmp_path):
    build, name, options, text = MISTAKES[mistake]
    model, inputs = build()
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        tq.export(model, tmp_path / name, inputs, **options)
    assert not list(tmp_path.iterdir())


def test_a_trained_model_must_be_converted_first(tmp_path):
    build, inputs = NETWORKS["residual"]
    model = tq.prepare(build(), tq.Recipe.preset("mixed_w4a8"), [inputs], verbose=False)
    with pytest.raises(tq.QuantizerError, match=r"pass convert\(model\)"):
        tq.export(model, tmp_path / "model.onnx", inputs)


def test_inputs_that_do_not_fit_are_explained(tmp_path):
    model, _ = deployed()
    with pytest.raises(tq.QuantizerError, match="can be exported with these inputs, got 'float32 tensor of shape"):
        tq.export(model, tmp_path / "model.onnx", torch.ones(2, 2))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra():
    with pytest.raises(ImportError, match=r"trainable-quantizers-torch\[onnx\]"):
        optional("no_such_module", "onnx", "trainable-quantizers-torch")


class Detector(nn.Module):
    """Takes pictures of any size, and gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.body, self.kind, self.box = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, image):
        x = torch.relu(self.body(image))
        return {"kind": self.kind(x), "box": self.box(x)}


@pytest.mark.parametrize(
    "sizes, shape",
    [("free", ["batch", 3, "image_2", "image_3"]), ("batch", ["batch", 3, 8, 8]), ("fixed", [2, 3, 8, 8])],
)
def test_a_file_takes_the_sizes_that_were_asked_for(sizes, shape, tmp_path):
    images = torch.randn(2, 3, 8, 8)
    model = tq.convert(tq.prepare(Detector(), tq.Recipe({}, {}), [images], verbose=False).eval())
    assert tq.export(model, tmp_path / "model.onnx", images, sizes=sizes).identical
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == shape
    if sizes == "free":
        larger = torch.randn(3, 3, 16, 24)
        kinds, boxes = session.run(["kind", "box"], {"image": larger.numpy()})
        np.testing.assert_array_equal(kinds, model(larger)["kind"].detach())
        np.testing.assert_array_equal(boxes, model(larger)["box"].detach())


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(each, marks=pytest.mark.long) for each in (torch.float16, torch.float64))],
    ids=str,
)
def test_other_precisions_are_written_in_float32(dtype, tmp_path):
    images = torch.randn(2, 3, 8, 8, dtype=dtype)
    recipe = tq.Recipe.preset("power_of_two_8bit")
    model = tq.convert(tq.prepare(Detector().to(dtype), recipe, [images], verbose=False).eval())
    found = tq.export(model, tmp_path / "model.onnx", images)
    assert found.largest <= 0.01, str(found)  # a step: the model rounds sums to its precision
    assert {each.type for each in onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()} == {
        "tensor(float)"
    }


def test_an_unknown_choice_of_sizes_is_refused(tmp_path):
    model, inputs = deployed()
    with pytest.raises(tq.QuantizerError, match="sizes must be one of 'free', 'batch', 'fixed', got 'all'"):
        tq.export(model, tmp_path / "model.onnx", inputs, sizes="all")


def exporting():
    model, inputs = deployed()
    return lambda path: tq.export(model, path, inputs)


def saving_a_program():
    return tq.to_integer(*deployed()).save


def saving_what_is_trained(save):
    def writer():
        build, inputs = NETWORKS["residual"]
        model = tq.prepare(build(), tq.Recipe.preset("mixed_w4a8"), [inputs], verbose=False)
        return save(model)

    return writer


WRITERS = {
    "model.onnx": exporting,
    "model.pt2": exporting,
    "model.c": exporting,
    "program.safetensors": saving_a_program,
    "parameters.safetensors": saving_what_is_trained(lambda model: partial(tq.save_quantizers, model)),
    "report.html": saving_what_is_trained(lambda model: partial(write_html, tq.report(model))),
    "recipe.json": lambda: tq.Recipe.preset("mixed_w4a8").to_file,
}


@contextmanager
def little_room(size=64):
    """No file may grow beyond these bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_without_room_an_older_file_stays_and_nothing_else(name, tmp_path):
    path = tmp_path / name
    path.write_text("before")
    write = WRITERS[name]()
    with pytest.raises((OSError, tq.QuantizerError)), little_room():
        write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "before"
