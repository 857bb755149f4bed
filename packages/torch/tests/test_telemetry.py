"""Figures of quantizers while a model trains."""

import re

import numpy as np
import pytest
import torch
import trainable_quantizers_torch as tq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.tensorboard import SummaryWriter
from torch_networks import NETWORKS, Residual, call
from trainable_quantizers_torch.inventory import quantizers_of

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5
FIGURES = {"threshold", "clipped", "range_used", "levels_used", "sqnr", "gradient_ratio"}


def prepared(name="residual", **options):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    model = tq.prepare(
        build(), tq.Recipe({"num_bits": 4, "method": "symmetric", **options}, {"num_bits": 4}), [inputs], verbose=False
    )
    return model, inputs


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def test_each_quantizer_has_each_figure():
    model, _ = prepared()
    found = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    names = {f"{each.layer}.{each.attribute}" for each in quantizers_of(model)}
    for name in names:
        figures = {key.removeprefix(f"{name}/") for key in found if key.startswith(f"{name}/")}
        assert figures - {"threshold_lowest", "threshold_highest"} == FIGURES
    assert {key.partition("/")[0] for key in found} == names
    assert not {name: value for name, value in found.items() if not np.isfinite(value)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_telemetry_and_nothing_of_it_changes(name):
    model, inputs = prepared(name)
    call(model, inputs).square().mean().backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    hooks = [list(module._forward_pre_hooks) for module in model.modules()]
    found = tq.telemetry(model, [inputs], lambda model, batch: call(model, inputs).square().mean())
    assert any(key.endswith("gradient_ratio") for key in found)
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert [list(module._forward_pre_hooks) for module in model.modules()] == hooks


def test_the_gradient_ratio_is_that_of_the_gradients_that_training_sees():
    model, _ = prepared()
    model.eval()
    found = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    loss(model, (IMAGES, LABELS)).backward()
    threshold, weight = model.conv1.weight_threshold, model.conv1.layer.weight
    expected = (threshold.grad.norm() / threshold.norm()) / (weight.grad.norm() / weight.norm())
    assert found["conv1.weight/gradient_ratio"] == pytest.approx(expected.item(), rel=1e-5)


def test_of_several_batches_the_ratio_is_the_mean():
    model, _ = prepared()
    batches = [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])]
    one, other, both = (tq.telemetry(model, data, loss) for data in (batches[:1], batches[1:], batches))
    for key in (key for key in both if key.endswith("gradient_ratio")):
        assert both[key] == pytest.approx((one[key] + other[key]) / 2, rel=1e-6)


def test_an_iterator_of_batches_is_enough():
    model, _ = prepared()
    wanted = tq.telemetry(model, [(IMAGES, LABELS)], loss)
    assert tq.telemetry(model, iter([(IMAGES, LABELS)]), loss) == wanted


def test_parts_that_are_computed_again_in_the_backward():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x):
            return checkpoint(self.body, x if x.sum() > 0 else -x, use_reentrant=False)

    model = tq.prepare(Checkpointed(), tq.Recipe({}, {}), [torch.randn(3, 4)], verbose=False)
    found = tq.telemetry(model, [torch.randn(3, 4)], lambda model, batch: model(batch).square().sum())
    assert "body.1.output/gradient_ratio" in found


def test_frozen_parameters_and_frozen_weights_have_no_ratio():
    model, _ = prepared(freeze=True)
    assert not any("weight/gradient_ratio" in key for key in tq.telemetry(model, [(IMAGES, LABELS)], loss))
    model, _ = prepared()
    model.conv1.layer.weight.requires_grad_(False)
    assert "conv1.weight/gradient_ratio" not in tq.telemetry(model, [(IMAGES, LABELS)], loss)


def test_tensorboard_reads_what_was_written(tmp_path):
    model, _ = prepared()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    written = []
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            written.append(tq.telemetry(model, [(IMAGES, LABELS)], loss, writer, step))
            optimizer.zero_grad()
            loss(model, (IMAGES, LABELS)).backward()
            optimizer.step()
    events = EventAccumulator(str(tmp_path), {"scalars": 0}).Reload()
    assert set(events.Tags()["scalars"]) == set(written[0])
    for name in ("conv1.weight/threshold", "relu.output/clipped", "head.weight/gradient_ratio"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(step, pytest.approx(found[name])) for step, found in enumerate(written)]
    assert written[0]["conv1.weight/threshold"] != written[2]["conv1.weight/threshold"]


MISTAKES = {
    "float": (lambda: tq.telemetry(Residual(), [IMAGES]), "prepare it first"),
    "no writer": (lambda: tq.telemetry(prepared()[0], [IMAGES], writer="runs"), "must be one with add_scalar"),
    "no scalar": (
        lambda: tq.telemetry(prepared()[0], [IMAGES], lambda model, batch: model(batch)),
        "loss must be a function that gives a scalar with a gradient",
    ),
    "no gradient": (
        lambda: tq.telemetry(prepared()[0], [IMAGES], lambda model, batch: model(batch).sum().item()),
        "loss must be a function that gives a scalar with a gradient",
    ),
    "data": (lambda: tq.telemetry(prepared()[0], 3), "data must be an iterable of batches, got 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()


def test_without_quantized_activations_there_are_ratios_of_weights():
    model = tq.prepare(nn.Sequential(nn.Linear(4, 2)), tq.Recipe({}), verbose=False)
    found = tq.telemetry(model, [torch.ones(2, 4)], lambda model, batch: model(batch).sum())
    assert found["0.weight/gradient_ratio"] >= 0
