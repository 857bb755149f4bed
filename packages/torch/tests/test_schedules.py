"""Schedules of quantizers, in the loops that people train with."""

import copy
import re
import warnings

import accelerate
import pytest
import pytorch_lightning
import safetensors.torch
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch.nn import functional
from torch_networks import NETWORKS, Residual, call

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5


def prepared(schedule, weights=None, training_method="LSQ", method="power_of_two", **of_weights):
    torch.manual_seed(0)
    fields = {"num_bits": 4, "training_method": training_method, "method": method}
    recipe = tq.Recipe({**fields, "schedule": weights or schedule, **of_weights}, {**fields, "schedule": schedule})
    return tq.prepare(Residual().eval(), recipe, [IMAGES], verbose=False)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()


def assert_equal_states(one, other):
    for (name, value), again in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name


def counts(model):
    return {name: value.item() for name, value in model.named_buffers() if name.endswith("_step")}


def ranges(model):
    found = {}
    for module in model.modules():
        for quantizer in getattr(module, "weights_quantizers", {}).values():
            found[module] = quantizer.read_variable("threshold").tolist()
    return list(found.values())


def test_before_start_training_is_in_float_and_evaluation_is_quantized():
    torch.manual_seed(0)
    network = Residual().eval()
    model = tq.prepare(network, tq.Recipe({"schedule": {"start": 3}}, {"schedule": {"start": 3}}), [IMAGES])
    for module in model.modules():  # batch norms and dropout stay as they are
        module.training = hasattr(module, "activation_holder_quantizer") or hasattr(module, "weights_quantizers")
    for wrapper in model.modules():
        if hasattr(wrapper, "weights_quantizers"):
            wrapper.layer.eval()
    assert torch.equal(model(IMAGES), network(IMAGES))
    with pytest.warns(UserWarning, match="converted at step 0, but its schedule quantizes fully only from step 3"):
        deployed = tq.convert(model)
    assert torch.equal(model.eval()(IMAGES), deployed.eval()(IMAGES))
    assert not torch.equal(deployed(IMAGES), network(IMAGES))


def test_over_the_ramp_the_output_and_its_gradient_are_blends():
    quantizer = tq.STESymmetricActivationTrainableQuantizer(
        tq.TrainableQuantizerActivationConfig(
            tq.QuantizationMethod.SYMMETRIC, 4, {tq.THRESHOLD: 1.0}, True, tq.MIN_THRESHOLD
        ),
        schedule=tq.QuantizationSchedule(ramp=3),
    )
    holder = tq.PytorchTrainableActivationQuantizationHolder(quantizer)
    x = torch.tensor([-2.0, -0.31, 0.0, 0.77, 3.0], requires_grad=True)
    threshold = quantizer.get_quantizer_variable(tq.THRESHOLD)
    full = holder.eval()(x)
    holder.train()
    for expected in (0.25, 0.5, 0.75, 1.0, 1.0):
        x.grad = threshold.grad = None
        y = holder(x)
        torch.testing.assert_close(y, x + expected * (full - x))
        y.sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([1 - expected, 1, 1, 1, 1 - expected]))
        torch.testing.assert_close(threshold.grad, torch.tensor([expected * (-1 + 7 / 8)]))
        quantizer.advance()
    assert torch.equal(holder(x), full)


@pytest.mark.parametrize("method", ["power_of_two", "symmetric", "uniform"])
@pytest.mark.parametrize("training_method", ["LSQ", "STE"])
def test_once_in_full_training_is_evaluation_bit_for_bit_and_converts_without_a_warning(method, training_method):
    model = prepared({"start": 1, "ramp": 1}, None, training_method, method)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    tq.follow_optimizer(model, optimizer)
    train(model, optimizer, 2)
    assert set(counts(model).values()) == {2.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deployed = tq.convert(model)
    evaluated = model.eval()(IMAGES)
    for module in model.modules():
        module.training = hasattr(module, "activation_holder_quantizer") or hasattr(module, "weights_quantizers")
    assert torch.equal(model(IMAGES), evaluated)
    assert torch.equal(deployed.eval()(IMAGES), evaluated)


def test_parameters_move_between_learn_from_and_learn_until_alone_whatever_the_optimizer_does():
    model = prepared({"learn_from": 2, "learn_until": 4})
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.1)  # moves what has no gradient too
    tq.follow_optimizer(model, optimizer)
    moved, before = [], ranges(model)
    for _ in range(6):
        train(model, optimizer, 1)
        moved.append(ranges(model) != before)
        before = ranges(model)
    assert moved == [False, False, True, True, False, False]
    with torch.no_grad():
        assert torch.equal(tq.convert(model).eval()(IMAGES), model.eval()(IMAGES))


def test_thresholds_without_effect_have_no_gradient():
    model = prepared({"learn_from": 5})
    train(model, torch.optim.SGD(model.parameters(), 0.01), 1)
    for name, parameter in model.named_parameters():
        assert parameter.grad.any() == ("threshold" not in name), name


def save_state_dict(model, optimizer, folder):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")


def load_state_dict(model, optimizer, folder):
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def save_safetensors(model, optimizer, folder):
    safetensors.torch.save_model(model, folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def load_safetensors(model, optimizer, folder):
    safetensors.torch.load_model(model, folder / "model.safetensors")
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))


def accelerator_of(model, optimizer):
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(model, optimizer)
    return accelerator


FILES = {
    "state dictionaries": (save_state_dict, load_state_dict),
    "safetensors": (save_safetensors, load_safetensors),
    "accelerate": (
        lambda model, optimizer, folder: accelerator_of(model, optimizer).save_state(folder),
        lambda model, optimizer, folder: accelerator_of(model, optimizer).load_state(folder),
    ),
}


@pytest.mark.parametrize("files", FILES)
def test_a_training_that_resumes_goes_on_as_the_one_that_was_never_interrupted(files, tmp_path):
    schedule = {"start": 2, "ramp": 3, "learn_from": 1, "learn_until": 5}
    save, load = FILES[files]

    def start():
        model = prepared(schedule)
        optimizer = torch.optim.SGD(tq.parameter_groups(model), lr=0.01, momentum=0.9)
        tq.follow_optimizer(model, optimizer)
        return model, optimizer

    model, optimizer = start()
    train(model, optimizer, 3)
    save(model, optimizer, tmp_path)
    train(model, optimizer, 4)
    again, optimizer = start()
    load(again, optimizer, tmp_path)
    assert set(counts(again).values()) == {3.0}
    train(again, optimizer, 4)
    assert_equal_states(model, again)


def test_steps_are_those_of_the_optimizer_and_end_with_the_handle():
    model = prepared({"start": 2})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    handle = tq.follow_optimizer(model, optimizer)
    for _ in range(4):  # accumulates two batches for each step
        for _ in range(2):
            functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    assert set(counts(model).values()) == {4.0}
    handle.remove()
    optimizer.step()
    assert set(counts(model).values()) == {4.0}
    tq.advance_schedules(model, 3)
    assert set(counts(model).values()) == {7.0}


def test_a_step_that_a_gradient_scaler_leaves_out_does_not_count():
    model = prepared({"start": 2})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    tq.follow_optimizer(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(functional.cross_entropy(model(IMAGES), LABELS) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert set(counts(model).values()) == {2.0}


def test_a_step_that_a_fused_optimizer_leaves_out_does_not_count():
    model = prepared({"start": 5})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tq.follow_optimizer(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    for factor in (1e4, 1e4, 1e-30):
        optimizer.zero_grad()
        scaler.scale(model(IMAGES).square().sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert set(counts(model).values()) == {1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_steps_are_counted_whatever_the_type_of_the_model(dtype):
    model = prepared({"start": 500}).to(dtype)
    for _ in range(2):
        tq.advance_schedules(model, 301)
    assert set(counts(model).values()) == {602}


def test_with_accelerate():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = prepared({"start": 2})
    optimizer = torch.optim.SGD(tq.parameter_groups(model), lr=0.01)
    model, optimizer = accelerator.prepare(model, optimizer)
    tq.follow_optimizer(model, optimizer)
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(functional.cross_entropy(model(IMAGES), LABELS))
            optimizer.step()
            optimizer.zero_grad()
    assert set(counts(accelerator.unwrap_model(model)).values()) == {3.0}


def test_with_the_optimizer_that_lightning_wraps():
    model = prepared({"start": 2})
    wrapped = pytorch_lightning.core.optimizer.LightningOptimizer(torch.optim.SGD(model.parameters(), lr=0.01))
    tq.follow_optimizer(model, wrapped)
    wrapped.optimizer.step()
    assert set(counts(model).values()) == {1.0}


class Lightning(pytorch_lightning.LightningModule):
    """What docs/training.md tells to write."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, index):
        images, labels = batch
        return functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(tq.parameter_groups(self.network), lr=0.01)
        tq.follow_optimizer(self.network, optimizer)
        return optimizer


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pytorch_lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet, **options)


@pytest.mark.filterwarnings("ignore")
def test_with_lightning_and_from_its_checkpoint(tmp_path):
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), batch_size=2)
    module = Lightning(prepared({"start": 2, "ramp": 4}))
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(module, batches)
    assert set(counts(module.network).values()) == {3.0}
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    again, whole = (Lightning(prepared({"start": 2, "ramp": 4})) for _ in range(2))
    trainer(tmp_path, max_epochs=3).fit(again, batches, ckpt_path=tmp_path / "last.ckpt")
    assert set(counts(again.network).values()) == {9.0}
    trainer(tmp_path, max_epochs=3).fit(whole, batches)
    assert_equal_states(whole, again)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_through_its_schedule(name):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    schedule = {"start": 1, "ramp": 1, "learn_until": 3}
    recipe = tq.Recipe({"num_bits": 4, "schedule": schedule}, {"num_bits": 4, "schedule": schedule})
    model = tq.prepare(build(), recipe, [inputs], verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    tq.follow_optimizer(model, optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        call(model, inputs).square().mean().backward()
        optimizer.step()
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        assert torch.equal(call(tq.convert(copied), inputs), call(model.eval(), inputs))


def test_a_compiled_model_goes_through_its_schedule_without_compiling_again():
    torch._dynamo.reset()
    oscillations = {"momentum": 0.5, "freeze_above": 0.4}
    model = prepared({"start": 1, "ramp": 2, "learn_until": 3}, oscillations=oscillations)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    tq.follow_optimizer(model, optimizer)
    reference = copy.deepcopy(model)
    slow = torch.optim.SGD(reference.parameters(), 0.01)
    tq.follow_optimizer(reference, slow)
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, optimizer, 5)
    train(reference, slow, 5)
    for (name, one), other in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.long
def test_a_compiled_model_takes_batches_and_images_of_every_size():
    torch._dynamo.reset()
    model = prepared({"start": 2, "ramp": 2, "learn_from": 1, "learn_until": 5})
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    tq.follow_optimizer(model, optimizer)
    graphs = []
    for batch, height, width in ((2, 8, 10), (3, 12, 8), (5, 16, 14), (4, 10, 20), (6, 8, 8), (7, 9, 12)):
        compiled(torch.randn(batch, 3, height, width)).square().mean().backward()
        optimizer.step()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs[2:])) == 1, graphs  # one for the first size, one for all others


@pytest.mark.parametrize(
    ("method", "dynamic"),
    [
        ("power_of_two", None),
        *(pytest.param(each, True, marks=pytest.mark.long) for each in ("power_of_two", "uniform", "lut_symmetric")),
    ],
)
def test_a_model_compiled_for_sizes_that_change_does_not_compile_again(method, dynamic):
    torch._dynamo.reset()
    schedule = {"start": 2, "ramp": 2, "learn_from": 1, "learn_until": 5}
    activations = {"num_bits": 4, "schedule": schedule}
    weights = {"num_bits": 4, "schedule": schedule, "method": method}
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    recipe = tq.Recipe(weights, activations)
    model = tq.prepare(network, recipe, [IMAGES], verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    tq.follow_optimizer(model, optimizer)
    graphs = []
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch, height, width in ((2, 8, 10), (3, 12, 8), (5, 16, 14), (4, 10, 20), (6, 8, 8), (7, 9, 12)):
        compiled(torch.randn(batch, 3, height, width)).square().mean().backward()
        optimizer.step()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs[1 if dynamic else 2 :])) == 1, graphs  # the first size may have a graph of its own


def test_a_frozen_quantizer_may_begin_late():
    recipe = tq.Recipe({"freeze": True, "schedule": {"start": 2, "learn_from": 1}})
    model = tq.prepare(Residual(), recipe, verbose=False)
    assert not any("threshold" in name for name, _ in model.named_parameters())
    tq.advance_schedules(model)
    assert set(counts(model).values()) == {1.0}


MISTAKES = {
    "no schedule": (
        lambda: tq.follow_optimizer(tq.prepare(Residual(), tq.Recipe({}), verbose=False), None),
        "follow_optimizer: model must be one whose quantizers have schedules",
    ),
    "float": (lambda: tq.advance_schedules(nn.Linear(2, 2)), "leave this out"),
    "no optimizer": (
        lambda: tq.follow_optimizer(prepared({"start": 1}), torch.optim.SGD),
        "optimizer must be a torch.optim.Optimizer",
    ),
    "no schedule given": (
        lambda: tq.STESymmetricWeightsTrainableQuantizer(
            tq.WeightsScheme("symmetric").config({tq.THRESHOLD: 1.0}, 0), schedule={"start": 1}
        ),
        "schedule must be a QuantizationSchedule, got {'start': 1}; write QuantizationSchedule(start=..., ramp=...)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()
