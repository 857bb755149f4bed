"""Whatever a forward is written like, the prepared model is the model, and quantizes all that multiplies."""

import copy
import threading
from functools import cache

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import NETWORKS, DropPath, Stochastic, call, language_model
from trainable_quantizers_torch.graph.runtime import QuantizedCalls

RECIPE = tq.Recipe.preset("power_of_two_8bit")
RECURRENT = ("cells", "recurrent")


def prepared(name, **options):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    network = build()
    return network, tq.prepare(network, RECIPE, [inputs], verbose=False, **options), inputs


looked_at = cache(prepared)
"""For tests that leave the model as it is."""


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in RECURRENT])
def test_all_multiply_accumulates_and_sums_are_quantized(name):
    work = tq.summary(looked_at(name)[1]).work
    assert work.work > 0
    assert work.quantized_work == work.work, str(work)
    assert work.quantized_sums == work.sums, str(work)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_keeps_its_class_and_its_modules(name):
    network, model, _ = looked_at(name)
    assert isinstance(model, type(network))
    assert type(model).__name__ == type(network).__name__
    for path, module in network.named_modules():
        if "parametrizations" not in path and path in dict(model.named_modules()):
            assert isinstance(model.get_submodule(path), type(module))


def test_what_only_training_does_is_left_alone():
    _, model, inputs = prepared("stochastic")
    seen = []
    for module in model.modules():
        if isinstance(module, tq.PytorchTrainableActivationQuantizationHolder):
            module.register_forward_hook(lambda module, args, output: seen.append(module))
    orders = []
    for training in (False, True, True):
        seen.clear()
        call(model.train(training), inputs)
        orders.append(list(map(id, seen)))
    assert orders[0] == orders[1] == orders[2]
    assert not torch.equal(call(model, inputs), call(model, inputs))


def test_threads_do_not_meet():
    _, model, inputs = prepared("residual")
    model.eval()
    wanted, before = call(model, inputs), copy.deepcopy(model.state_dict())
    differing = []

    def work():
        differing.extend(not torch.equal(call(model, inputs), wanted) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differing) == 80
    assert not any(differing)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


SLOW = ("attention", "stochastic")


@pytest.mark.parametrize(
    "name", ["asking", "residual", "own layers", *(pytest.param(each, marks=pytest.mark.long) for each in SLOW)]
)
def test_a_prepared_model_compiles_whole(name):
    _, model, inputs = prepared(name)
    torch.compiler.reset()
    compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")
    assert torch.allclose(call(compiled, inputs), call(model, inputs), atol=1e-6)


LAYERS = [
    nn.Hardswish(),
    *(
        pytest.param(layer, marks=pytest.mark.long)
        for layer in (nn.Hardsigmoid(), nn.RMSNorm(4), nn.Threshold(0.1, 0.0))
    ),
]
"""Their functions reach the compiler in other ways than most."""


def between_linear_layers(layer):
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    network = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))
    return tq.prepare(network, tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [x], verbose=False), x


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_compiler_hides_no_function_from_its_quantizer(layer):
    model, x = between_linear_layers(layer)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("deploy", [lambda model: model, pytest.param(tq.convert, marks=pytest.mark.long)])
def test_the_compiler_computes_attention_in_parts_that_are_quantized(deploy):
    _, model, inputs = prepared("encoder")
    model.eval()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        wanted = call(model, inputs)
        torch.compiler.reset()
        assert torch.equal(call(torch.compile(deploy(model), backend="aot_eager"), inputs), wanted)
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


class Gate(nn.Module):
    def forward(self, x):
        return nn.functional.hardswish(x)


def test_a_function_that_the_compiler_hides_stays_out_of_the_compiled_graph():
    model, x = between_linear_layers(Gate())
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Observed exception"):
        torch.compile(model, fullgraph=True, backend="eager")(x)
    torch.compiler.reset()
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


@pytest.mark.parametrize("name", ["asking", "detecting"])
def test_a_prepared_model_is_exported_with_its_quantizers(name):
    _, model, inputs = prepared(name)
    model.eval()
    with torch.no_grad():
        program = torch.export.export(model, inputs).module()
        assert torch.equal(program(*inputs), call(model, inputs))


def test_parameters_may_be_given_from_outside():
    _, model, inputs = prepared("detecting")
    model.eval()
    other = {name: parameter.detach() * 1.1 for name, parameter in model.named_parameters()}
    found = torch.func.functional_call(model, other, inputs)
    model.load_state_dict(other, strict=False)
    assert torch.equal(found, call(model, inputs))


def rows(bits=4):
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    network = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4))
    method = {"num_bits": bits, "method": "uniform", "schedule": {"ramp": 3}}
    return tq.prepare(network, tq.Recipe({"num_bits": bits}, method), [x], verbose=False), x


def loss_of(model):
    return lambda parameters, x: torch.func.functional_call(model, parameters, (x,)).square().sum()


def test_gradients_by_transforms_are_those_of_autograd():
    model, x = rows()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = torch.func.grad(loss_of(model))(parameters, x)
    of_samples = torch.func.vmap(torch.func.grad(loss_of(model)), (None, 0))(parameters, x[:, None])
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
        if "holder" not in name:  # the scale of a step's gradient grows with the batch of none
            torch.testing.assert_close(of_samples[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


def test_samples_and_members_of_an_ensemble_are_mapped_over():
    model, x = rows()
    assert torch.equal(torch.func.vmap(lambda row: model(row[None])[0])(x), model(x))
    members = [copy.deepcopy(model) for _ in range(3)]
    for factor, member in enumerate(members, 1):
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.mul_(1 + factor / 10)
    state = torch.func.stack_module_state(members)
    found = torch.func.vmap(lambda *state: torch.func.functional_call(members[0], state, (x,)))(*state)
    for one, member in zip(found, members, strict=True):
        torch.testing.assert_close(one, member(x))


TWICE = {
    "double backward": lambda model, x: torch.autograd.grad(
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0].sum(), x
    ),
    "jacrev of jacrev": lambda model, x: torch.func.jacrev(torch.func.jacrev(lambda x: model(x).square().sum()))(x),
    "forward mode": lambda model, x: torch.func.jvp(model, (x,), (x,)),
    "hessian": lambda model, x: torch.func.hessian(lambda x: model(x).square().sum())(x),
}


@pytest.mark.parametrize("how", TWICE)
def test_what_straight_through_gradients_do_not_define_is_an_error(how):
    model, x = rows()
    with pytest.raises(tq.QuantizerError, match="has no meaning for a quantizer, whose straight-through gradient"):
        TWICE[how](model, x.clone().requires_grad_())


def test_a_language_model_generates_and_takes_labels():
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (2, 7))
    model = tq.prepare(language_model(), RECIPE, [{"input_ids": tokens}], verbose=False)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    model.eval()
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(tokens, **options), tq.convert(model).generate(tokens, **options))


def test_a_lightning_module_trains_by_its_own_steps():
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Stochastic()

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, index):
            return self.network(batch[0]).square().mean()  # not by its own forward

    x = torch.randn(6, 8)
    model = tq.prepare(Module(), RECIPE, [x], verbose=False)
    assert isinstance(model, Module)
    model.training_step((x,), 0).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    assert torch.equal(tq.convert(model)(x), model(x))


def test_a_network_of_layers_in_a_row_is_asked_for_no_more_than_it_holds():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model = tq.prepare(network, RECIPE, [torch.randn(3, 4)], verbose=False)
    assert len(model) == 3
    assert not isinstance(model, QuantizedCalls)


def test_a_recipe_may_require_coverage():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, add_zero_attn=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    recipe = tq.Recipe({}, {}, require_coverage=1.0)
    with pytest.raises(tq.QuantizerError, match=r"coverage must be at least 1.0, got 0.0; .* in float: attention"):
        tq.prepare(Half(), recipe, [torch.randn(3, 2, 8)], verbose=False)


class Unseen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_what_no_mode_sees_does_not_hide_the_layers_after_it():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(Unseen.apply(self.first(x)))

    model = tq.prepare(Network(), RECIPE, [torch.randn(3, 4)], verbose=False)
    table = {row.layer: row for row in tq.summary(model).rows}
    assert table["last"].weights
    assert tq.summary(model).coverage == 1


def test_coverage_that_nothing_shows_is_not_taken_for_granted():
    with pytest.raises(tq.QuantizerError, match="a run shows what the model computes"):
        tq.prepare(nn.Sequential(nn.Linear(4, 2)), tq.Recipe({}, require_coverage=1.0), verbose=False)


class InPlace(nn.Module):
    """Functions that change their argument, whose result a forward takes, or leaves for the argument itself."""

    def __init__(self, takes):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.relu, self.takes = nn.ReLU(inplace=True), takes

    def forward(self, x):
        y, z = self.one(x), self.other(x)
        if self.takes:
            y = self.relu(y)
            z = z.add_(y).mul_(0.5).relu_()
        else:
            self.relu(y)
            z.add_(y)
            z.mul_(0.5)
            z.relu_()
        return self.head(z)


def test_a_function_that_changes_its_argument_leaves_quantized_values_there():
    torch.manual_seed(0)
    taken, x = InPlace(True), torch.randn(64, 4)
    left = InPlace(False)
    left.load_state_dict(taken.state_dict())
    recipe = tq.Recipe({"num_bits": 4}, {"num_bits": 4})
    models = [tq.prepare(each, recipe, [x], verbose=False) for each in (taken, left)]
    outputs = [model(x) for model in models]
    assert torch.equal(*outputs)
    gradients = [
        torch.autograd.grad(output.sum(), model.parameters()) for output, model in zip(outputs, models, strict=True)
    ]
    assert all(map(torch.equal, *gradients))
    levels = []
    models[1].head.layer.register_forward_pre_hook(lambda module, args: levels.append(len(args[0].unique())))
    assert torch.equal(tq.convert(models[1].eval())(x), models[1](x))
    assert levels and max(levels) <= 16


@pytest.mark.parametrize("function", [torch.mul, torch.add])
def test_a_tensor_that_a_function_writes_to_holds_quantized_values(function):
    class Writing(nn.Module):
        def __init__(self, out):
            super().__init__()
            self.one, self.other, self.head, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3), out

        def forward(self, x):
            y, z = self.one(x), self.other(x)
            if not self.out:
                return self.head(function(y, z))
            found = torch.empty(0)
            function(y, z, out=found)
            return self.head(found)

    torch.manual_seed(0)
    plain, x = Writing(False), torch.randn(64, 4)
    writing = Writing(True)
    writing.load_state_dict(plain.state_dict())
    with torch.no_grad():
        recipe = tq.Recipe({"num_bits": 4}, {"num_bits": 4})
        models = [tq.prepare(each, recipe, [x], verbose=False) for each in (plain, writing)]
        assert torch.equal(models[0](x), models[1](x))
        assert torch.equal(tq.convert(models[1].eval())(x), models[1](x))


def test_tensors_with_a_bit_for_their_sign_are_quantized_by_their_values():
    model, x = rows()
    output = model(torch._neg_view(x))
    assert torch.equal(output, model(-x))
    gradients = [
        torch.autograd.grad(output, list(model.parameters()), each, retain_graph=True)
        for each in (torch._neg_view(output.detach()), -output.detach())
    ]
    assert all(map(torch.equal, *gradients))


def test_a_prepared_model_inside_another_keeps_its_own_quantizers():
    _, model, inputs = prepared("residual")
    model.eval()
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.3)
    wanted = call(model, inputs) + call(teacher, inputs)
    model.head.register_forward_hook(lambda module, args, output: output + call(teacher, inputs))
    assert torch.equal(call(model, inputs), wanted)


class Encoding(nn.Module):
    """Its forward calls methods, of which others may be called alone; each function has been called before."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.drop = nn.Linear(4, 4), nn.SiLU(), DropPath()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

    def encode(self, x):
        return self.act(torch.sigmoid(self.first(x) * 2.0)) + x

    def decode(self, z):
        for layer in self.layers:
            z = self.act(torch.sigmoid(layer(z) * 20.0)) + z
        return self.finish(z * 3)

    def finish(self, z):
        return torch.sigmoid(z) - 0.5

    def forward(self, x):
        return self.decode(self.drop(self.encode(x) * 1.0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("again", [lambda model: model, copy.deepcopy, tq.convert], ids=["model", "copy", "converted"])
def test_methods_that_a_forward_calls_are_quantized_alone_as_they_are_there(again, training):
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    model = again(tq.prepare(Encoding(), tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [x], verbose=False))
    model.train(training)
    torch.manual_seed(1)
    wanted = model(x)
    torch.manual_seed(1)
    z = model.drop(model.encode(x) * 1.0)
    assert torch.equal(model.decode(z), wanted)
    assert len(model.encode(x).unique()) <= 16
