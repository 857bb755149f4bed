"""The float model teaches: its outputs and layers pull on the student, thresholds included, and it stays as it is."""

import copy
import pickle

import numpy as np
import pytest
import pytorch_lightning
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS, Residual, call

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RECIPE = tq.Recipe({"num_bits": 4}, {"num_bits": 4})


def prepared(**options):
    torch.manual_seed(0)
    network = Residual()
    return network, tq.prepare(network, RECIPE, [X], verbose=False, **options)


def relative(given, wanted):
    return ((given - wanted).double().square().sum() / wanted.double().square().sum()).item()


def divergence(given, wanted, temperature):
    p, q = (np.exp(each.detach().double().numpy() / temperature) for each in (wanted, given))
    p, q = (each / each.sum(-1, keepdims=True) for each in (p, q))
    return temperature**2 * (p * np.log(p / q)).sum(-1).mean()


def test_the_loss_is_that_of_the_formula():
    network, model = prepared()
    seen = []
    for each in (model, network.eval()):
        each.norm2.register_forward_hook(lambda module, args, result: seen.append(result))
    given, wanted = model.eval()(X), network(X)
    layers = relative(*seen[:2])
    for temperature, expected in ((None, relative(given, wanted)), (3.0, divergence(given, wanted, 3.0))):
        outputs, loss = tq.Distillation(network, model, ("norm2",), temperature, weight=0.5)(X)
        assert torch.equal(outputs, given)
        assert loss.item() == pytest.approx(expected + 0.5 * layers, rel=1e-4)


def test_classes_may_count_along_another_axis():
    network = nn.Sequential(nn.Conv2d(3, 5, 1))
    model = tq.prepare(network, RECIPE, [X], verbose=False)
    by_pixel = (0, 2, 3, 1)
    expected = divergence(model(X).permute(by_pixel), network(X).permute(by_pixel), 2.0)
    _, loss = tq.Distillation(network, model, temperature=2.0, class_axis=1)(X)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_gradient_reaches_thresholds_and_the_teacher_stays():
    network, model = prepared()
    before = copy.deepcopy(network.state_dict())
    distillation = tq.Distillation(network, model, ("norm1", "norm2")).train()
    assert model.norm1.training and not distillation.teacher.norm1.training
    optimizer = torch.optim.SGD(distillation.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        distillation(X)[1].backward()
        optimizer.step()
    grads = {name: each.grad for name, each in model.named_parameters() if "threshold" in name}
    assert len(grads) > 5 and all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    for state in (network.state_dict(), distillation.teacher.state_dict()):
        assert all(torch.equal(state[name], value) for name, value in before.items())
    assert network.training


class Lightning(pytorch_lightning.LightningModule):
    """What docs/few-bits.md tells to write."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        self.model = tq.prepare(network, RECIPE, [X], verbose=False)
        self.distillation = tq.Distillation(network, self.model, ("1",), 2.0)

    def training_step(self, batch, index):
        return self.distillation(batch[0])[1]

    def configure_optimizers(self):
        return torch.optim.SGD(tq.parameter_groups(self.model), lr=0.01)


@pytest.mark.filterwarnings("ignore")
def test_with_lightning_it_trains_as_in_a_plain_loop(tmp_path):
    module, plain = Lightning(), Lightning()
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pytorch_lightning.Trainer(accelerator="cpu", devices=1, max_epochs=2, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=2))
    optimizer = plain.configure_optimizers()
    for batch in X.split(2) + X.split(2):
        optimizer.zero_grad()
        plain.training_step((batch,), 0).backward()
        optimizer.step()
    found, wanted = module.state_dict(), plain.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items() if torch.is_tensor(value))
    assert not torch.equal(found["model.0.layer.weight"], Lightning().state_dict()["model.0.layer.weight"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_has_nothing_to_learn_from_itself(name):
    build, inputs = NETWORKS[name]
    network, called = build().eval(), {}
    for layer, module in network.named_children():
        module.register_forward_hook(lambda module, args, result, layer=layer: called.update({layer: result}))
    call(network, inputs)
    for temperature in (None, 2.0):
        distillation = tq.Distillation(network, copy.deepcopy(network), tuple(called), temperature).eval()
        _, loss = distillation(**inputs) if isinstance(inputs, dict) else distillation(*inputs)
        assert abs(loss.item()) < 1e-6  # attention has a way of its own without gradients


def test_folded_norms_are_compared_where_they_went():
    network, model = prepared(fold_batch_norm=True)
    distillation = tq.Distillation(network, model, ("norm1",)).eval()
    assert 0 < distillation(X)[1].item() < 0.5
    with pytest.raises(tq.QuantizerError, match="got 'conv1'; name 'norm1', which folded into it"):
        tq.Distillation(network, model, ("conv1",))


@pytest.mark.parametrize("compiled", [pytest.param("student", marks=pytest.mark.long), "distillation"])
def test_compiled_it_is_one_graph(compiled):
    network, model = prepared()
    model = model.eval()
    expected = tq.Distillation(network, model, ("norm1",)).eval()(X)[1]
    options = {"backend": "eager", "fullgraph": True}
    student = torch.compile(model, **options) if compiled == "student" else model
    distillation = tq.Distillation(network, student, ("norm1",)).eval()
    run = torch.compile(distillation, **options) if compiled == "distillation" else distillation
    for _ in range(2):
        loss = run(X)[1]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.conv1.layer.weight.grad is not None


def test_the_student_is_converted_copied_and_pickled_as_before():
    network, model = prepared()
    distillation = tq.Distillation(network, model, ("norm1",))
    distillation(X)
    assert all(tap.results is None for pair in distillation._taps.values() for tap in pair)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert torch.equal(tq.convert(twin.eval())(X), model.eval()(X))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.count = nn.Linear(4, 8), nn.Linear(8, 3), 0

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return {"logits": self.head(hidden), "others": (hidden, torch.ones(2, dtype=torch.int64))}


def test_several_outputs_are_compared_together():
    network, x = Several(), X.reshape(-1, 4)
    model = tq.prepare(network, RECIPE, [x], verbose=False)
    outputs, loss = tq.Distillation(network, model)(x)
    given, wanted = ([each["logits"], each["others"][0]] for each in (outputs, network(x)))
    assert loss.item() == pytest.approx(relative(*(torch.cat(each, 1) for each in (given, wanted))), rel=1e-4)


def test_what_cannot_teach_is_refused():
    network, model = prepared()
    for options, told in (
        ({"layers": ("norm3",)}, "layers must be names of layers of the teacher, got 'norm3'; did you mean 'norm"),
        ({"layers": "norm1"}, "layers must be a sequence of names"),
        ({"temperature": 0}, "temperature must be a positive number or None, got 0"),
        ({"weight": -1}, "weight must be a number of at least 0, got -1"),
        ({"class_axis": 1.5}, "class_axis must be an integer, got 1.5"),
    ):
        with pytest.raises(tq.QuantizerError, match=told):
            tq.Distillation(network, model, **options)
    with pytest.raises(tq.QuantizerError, match=r"student must be a torch\.nn\.Module"):
        tq.Distillation(network, None)
    with pytest.raises(tq.QuantizerError, match="names of layers that the student has as well, got 'head'"):
        tq.Distillation(network, nn.Sequential(), ("head",))
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(tq.QuantizerError, match=r"outputs of the student must be those of the teacher, .*\(6, 5\)"):
        tq.Distillation(network, other)(X)
    unused = Residual()
    unused.unused = nn.Linear(1, 1)
    with pytest.raises(tq.QuantizerError, match=r"results of 'unused' of the student .* no floating tensor"):
        tq.Distillation(unused, copy.deepcopy(unused), ("unused",))(X)
