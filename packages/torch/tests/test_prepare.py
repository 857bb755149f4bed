"""From a float model to a trained one to a deployed one, by a recipe."""

import copy
import io
import itertools
import pickle
import re
import threading
from collections import UserDict

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_networks import NETWORKS, Attentive, Residual, Shared, WithOwn, call

RECIPE = tq.Recipe(tq.WeightsScheme(num_bits=4), tq.ActivationsScheme(num_bits=4))
HOLDER, WRAPPER = tq.PytorchTrainableActivationQuantizationHolder, tq.PytorchTrainableQuantizationWrapper


def prepared(name, recipe=RECIPE, seed=0, **options):
    torch.manual_seed(seed)
    build, inputs = NETWORKS[name]
    network = build()
    return network, tq.prepare(network, recipe, [inputs], verbose=False, **options), inputs


def rows(model):
    return {row.layer: row for row in tq.summary(model).rows}


@pytest.mark.parametrize("name", NETWORKS)
def test_prepare_train_convert_save_reload(name):
    network, model, inputs = prepared(name)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        call(model, inputs).square().mean().backward()
        optimizer.step()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the float model changed"
    model.eval()
    deployed = tq.convert(model)
    with torch.no_grad():
        wanted = call(model, inputs)
        assert torch.equal(call(deployed, inputs), wanted)
        again = prepared(name)[1].eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(call(again, inputs), wanted)
        file = io.BytesIO()
        torch.save(deployed, file)
        file.seek(0)
        assert torch.equal(call(torch.load(file, weights_only=False), inputs), wanted)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(call(copied, inputs), wanted)
            assert tq.summary(copied) == tq.summary(model)
    assert all(p.grad is not None for p in model.parameters()), "a parameter takes no part"


@pytest.mark.parametrize("name", NETWORKS)
def test_with_many_bits_a_prepared_model_computes_what_the_float_model_does(name):
    scheme = {"num_bits": 16, "calibration": "min_max", "method": "symmetric"}
    network, model, inputs = prepared(name, tq.Recipe(scheme, scheme))
    with torch.no_grad():
        found, wanted = call(model.eval(), inputs), call(network.eval(), inputs)
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-3 * max(wanted.abs().max().item(), 0.1))


@pytest.mark.parametrize("recipe", [RECIPE, tq.Recipe(tq.WeightsScheme())], ids=["activations", "weights alone"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_summary_says_whether_the_converted_model_needs_this_package(name, recipe):
    _, model, _ = prepared(name, recipe)
    classes = {each for module in tq.convert(model).modules() for each in type(module).__mro__}
    ours = any(each.__module__.startswith("trainable_quantizers") for each in classes)
    assert tq.summary(model).runtime == ("trainable-quantizers-torch" if ours else "")
    assert ("needs trainable-quantizers-torch to run" in str(tq.summary(model))) == ours


def test_thresholds_come_from_data():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.7, 0.1], [-3.0, 0.0]]))
    recipe = tq.Recipe(tq.WeightsScheme(calibration="min_max"), tq.ActivationsScheme(calibration="min_max"))
    model = tq.prepare(network, recipe, [torch.tensor([[5.0, -1.0]]), torch.tensor([[1.0, 1.0]])], verbose=False)
    found = {name: value.tolist() for name, value in model.named_parameters() if "threshold" in name}
    assert found["0.weight_threshold"] == [1.0, 4.0]
    thresholds = [value for name, value in found.items() if "activation_quantizers" in name]
    assert thresholds == [[8.0], [4.0]]  # of the input and of the ReLU, whose largest output is 3.4


def test_a_tensor_is_quantized_once_after_its_activation_function():
    _, model, inputs = prepared("residual")
    counted = []
    for module in model.modules():
        if isinstance(module, HOLDER):
            module.register_forward_hook(lambda module, args, output: counted.append(args[0].shape))
    call(model, inputs)
    assert len(counted) == 6  # the input, relu, conv2 with norm2, relu of the sum, mean, head
    table = rows(model)
    assert not table["conv1"].activations
    assert table["relu"].activations
    assert not table["add"].activations
    assert table["relu_1"].activations


def test_what_hardware_looks_up_in_a_table_reads_a_quantized_tensor():
    table = rows(prepared("like functions")[1])
    assert table["body.0.0"].activations  # goes into tanh, past an identity
    assert table["body.0.2"].activations
    assert table["exp"].activations
    assert table["body.1"].reason.startswith("default; output: left to relu; ")


def test_what_follows_is_found_past_what_passes_values_on():
    _, model, _ = prepared("reads attributes", fold_batch_norm=True)
    assert rows(model)["body.0"].reason.startswith("default; output: left to body.3; ")  # past the norm and a dropout


def test_a_module_used_twice_has_one_quantizer_for_its_weight_and_one_for_each_output():
    _, model, _ = prepared("shared")
    table = rows(model)
    assert sum(isinstance(module, WRAPPER) for module in model.modules()) == 3
    assert table["twice_1"].reason.endswith("shares its weight and weight quantizer with twice")
    assert table["twice"].activations
    assert table["twice_1"].activations
    assert "not a floating tensor" in table["tokens"].reason


def test_tied_weights_stay_tied_and_have_one_quantizer():
    _, model, _ = prepared("tied")
    assert model.words.layer.weight is model.head.layer.weight
    assert model.words.weight_threshold is model.head.weight_threshold
    assert "with head" in rows(model)["words"].reason
    assert torch.equal(model.words.weight, model.head.weight)


def test_dropout_in_a_function_follows_the_mode_of_the_model():
    _, model, inputs = prepared("residual")
    model.eval()
    assert torch.equal(call(model, inputs), call(model, inputs))
    model.train()
    first = call(model, inputs)
    assert any(not torch.equal(call(model, inputs), first) for _ in range(20))


def test_calibration_leaves_the_mode_and_the_batch_statistics_alone():
    network, model, _ = prepared("residual")
    assert model.training
    assert torch.equal(model.norm1.running_mean, network.norm1.running_mean)


def test_each_module_stays_in_its_mode():
    for name in ("residual", "reads attributes"):
        build, inputs = NETWORKS[name]
        network = build()
        frozen = next(key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d))
        network.get_submodule(frozen).eval()
        model = tq.prepare(network, RECIPE, [inputs], verbose=False)
        assert [key for key, module in model.named_modules() if not module.training] == [frozen]
        model = tq.prepare(network.eval(), RECIPE, [inputs], verbose=False)
        assert not any(module.training for module in model.modules())


def test_no_observer_is_left_and_names_are_unique():
    for name in NETWORKS:
        _, model, _ = prepared(name)
        assert not any(type(module).__name__ == "Observer" for module in model.modules()), name
        layers = [row.layer for row in tq.summary(model).rows]
        assert len(set(layers)) == len(layers), name


def test_layers_stay_what_they_are():
    network, model, _ = prepared("reads attributes")
    assert isinstance(model, type(network))
    assert isinstance(model.head, nn.Linear)
    assert isinstance(model.norm, nn.LayerNorm)
    assert tq.convert(model.eval()).head.out_features == 4


def test_arguments_that_no_batch_gives_keep_their_defaults():
    network, model, (x,) = prepared("optional")
    assert "mul" in rows(model)  # by the scale
    assert "mul_1" not in rows(model)
    assert torch.allclose(model.eval()(x), network(x), atol=0.5)
    network, model, inputs = prepared("optional given")
    assert "mul_1" in rows(model)
    assert torch.allclose(model.eval()(*inputs.values()), network(**inputs), atol=0.5)


def test_arguments_keep_their_order_whatever_that_of_a_dictionary():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(4, 4)

        def forward(self, x, y):
            return self.scale(x) - y

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    model = tq.prepare(Difference(), RECIPE, [{"y": y, "x": x}], verbose=False).eval()
    assert torch.equal(model(x, y), model(y=y, x=x))


class Averaging(nn.Module):
    """Keeps a mean in training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        y = self.layer(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y - self.mean


class Listing(nn.Module):
    """Keeps what it evaluates in a list."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 4), []

    def forward(self, x):
        y = self.layer(x)
        if not self.training:
            self.seen.append(y)
        return y


class Remembering(nn.Module):
    """Goes on where it was."""

    def __init__(self):
        super().__init__()
        self.gru, self.state = nn.GRU(4, 3, batch_first=True), None

    def forward(self, x):
        y, state = self.gru(x, self.state)
        self.state = state.detach()
        return y


def test_a_forward_that_keeps_results_goes_on_keeping_them():
    model = tq.prepare(Averaging(), RECIPE, [torch.randn(5, 4)], verbose=False)
    assert model.mean.abs().sum() == 0  # looking at the forward left nothing
    model(torch.randn(5, 4))
    assert model.mean.abs().sum() > 0
    model = tq.prepare(Listing(), tq.Recipe({}), verbose=False).eval()
    model(torch.randn(5, 4))
    assert len(model.seen) == 1
    x = torch.randn(2, 3, 4)
    model = tq.prepare(Remembering(), RECIPE, [x], verbose=False)
    model(x)
    assert model.state.shape == (1, 2, 3)
    deployed = tq.convert(model.eval())  # with the state that it has now
    with torch.no_grad():  # PyTorch has kernels of its own for what needs no gradient
        assert torch.equal(deployed(x), model(x))


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + torch.arange(4.0)


def test_tensors_that_a_forward_makes_of_constants_are_quantized_where_they_are_added():
    network, x = Positions(), torch.randn(3, 4)
    model = tq.prepare(network, tq.Recipe({}, {}), [x], verbose=False)
    assert rows(model)["add"].activations
    assert rows(model)["arange"].activations
    assert torch.allclose(model.eval()(x), network(x), atol=0.1)
    assert torch.equal(tq.convert(pickle.loads(pickle.dumps(model)))(x), model(x))


@pytest.mark.parametrize("wrap", ["compiled", "averaged", "parallel"])
def test_what_wraps_a_model_takes_its_batches(wrap):
    _, model, inputs = prepared("shared")
    wrapped = {
        "compiled": lambda: torch.compile(model, backend="aot_eager"),
        "averaged": lambda: torch.optim.swa_utils.AveragedModel(model),
        "parallel": lambda: nn.DataParallel(model),
    }[wrap]()
    assert tq.verify(wrapped, tq.convert(model), [inputs]).identical


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, sequences):
            self.gru.flatten_parameters()
            return self.head(self.gru(sequences)[1][0].to(self.head.bias.dtype))

    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 5, 4), torch.tensor([5, 3, 2]), batch_first=True)
    model = tq.prepare(Packed(), RECIPE, [packed], verbose=False).eval()
    assert tq.verify(model, tq.convert(model), [packed]).identical


def test_an_iterator_of_batches_is_used_whole():
    network = nn.Sequential(nn.Linear(4, 2))
    batches = (torch.full((1, 4), float(index)) for index in range(3))
    recipe = tq.Recipe(None, tq.ActivationsScheme("uniform", calibration="min_max"))
    model = tq.prepare(network, recipe, batches, verbose=False)
    found = {name: value.item() for name, value in model.named_parameters() if name.endswith("max_range")}
    assert found["0.activation_quantizers.input.activation_holder_quantizer_out_max_range"] == 2.0


def test_a_layer_that_calibration_never_reached_stays_in_float():
    class Sleeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.rare, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rare(x) if x.sum() > 1e6 else x)

    model = tq.prepare(Sleeping(), RECIPE, [torch.randn(3, 4)], verbose=False)
    assert rows(model)["rare"].reason == "default; calibration never reached it"
    assert not rows(model)["rare"].activations
    assert model(torch.full((3, 4), 1e6)).shape == (3, 2)


def test_what_stays_in_float_is_said():
    zero = Attentive(add_zero_attn=True)
    model = tq.prepare(zero, RECIPE, [NETWORKS["attention"][1]], verbose=False)
    assert "add_zero_attn" in rows(model)["attention"].reason
    assert tq.summary(model).coverage < 1
    assert "attention" in tq.summary(model).work.float_operations


def test_a_weight_that_a_function_reads_is_quantized_once():
    _, model, _ = prepared("read directly")
    assert "with words_1" in rows(model)["words"].reason
    assert model.words.weight.unique().numel() <= 16 * 4
    assert tq.summary(model).coverage == 1


def test_a_computed_weight_is_quantized_as_computed():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    model = tq.prepare(network, RECIPE, [torch.randn(3, 4)], verbose=False)
    assert rows(model)["0"].weights
    assert tq.summary(model).coverage == 1
    holder = model[0].activation_quantizers["weight"]
    assert (holder(model[0].weight) / holder.weight_threshold.detach()[:, None]).unique().numel() <= 16


def test_all_weights_of_a_layer_are_quantized():
    _, model, _ = prepared("cells")
    assert set(model.first.weights_quantizers) == {"weight_ih", "weight_hh"}
    _, model, _ = prepared("recurrent")
    names = {f"weight_{part}_l{layer}{way}" for part in ("ih", "hh") for layer in "01" for way in ("", "_reverse")}
    assert set(model.lstm.weights_quantizers) == names
    assert set(model.gru.weights_quantizers) == {"weight_ih_l0", "weight_hh_l0"}


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"num_layers": 2, "bias": False}], ids=str)
def test_a_recurrent_layer_computes_with_its_quantized_weights(options):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.LSTM(4, 8, **options)), torch.randn(5, 2, 4)
    model = tq.prepare(network, tq.Recipe({"num_bits": 2}), verbose=False)
    wrapper = model.get_submodule("0")
    plain = nn.LSTM(4, 8, **options)
    plain.load_state_dict({**network[0].state_dict(), **wrapper.get_quantized_weights()})
    assert torch.equal(model(x)[0], plain(x)[0])
    model(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    held = [getattr(wrapper.layer, name) for name in wrapper.layer._flat_weights_names]
    assert all(kept is weight for kept, weight in zip(wrapper.layer._flat_weights, held, strict=True))
    assert torch.equal(copy.deepcopy(model)(x)[0], model(x)[0])
    assert torch.equal(wrapper.layer(x)[0], network(x)[0])  # nothing was left behind


def test_a_rule_that_names_a_layer_of_your_own_quantizes_it():
    recipe = tq.Recipe(tq.WeightsScheme(), rules=[tq.LayerRule(type="Own", weights={"num_bits": 3})])
    model = tq.prepare(WithOwn(), recipe, [torch.randn(5, 4)], verbose=False)
    assert rows(model)["own"].weights.startswith("3-bit")


def test_the_summary_is_printed(capsys):
    model = tq.prepare(Residual(), RECIPE, [torch.randn(2, 3, 8, 8)])
    assert str(tq.summary(model)) in capsys.readouterr().out


def test_batches_may_be_tuples_with_targets_and_loaders():
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.zeros(8))
    tq.prepare(Residual(), RECIPE, torch.utils.data.DataLoader(data, batch_size=4), verbose=False)


def test_batches_may_be_mappings_of_any_class():
    data = [UserDict(x=torch.randn(5, 4))]
    assert rows(tq.prepare(WithOwn(), RECIPE, data, verbose=False))["x"].activations


def test_half_precision_models_keep_their_type():
    model = tq.prepare(WithOwn().bfloat16(), RECIPE, [torch.randn(5, 4).bfloat16()], verbose=False)
    assert model(torch.randn(5, 4).bfloat16()).dtype == torch.bfloat16


class Locked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 2))
        self.lock = threading.Lock()


MISTAKES = {
    "no data": (
        lambda: tq.prepare(Residual(), RECIPE, verbose=False),
        "must be an iterable of batches",
    ),
    "empty data": (lambda: tq.prepare(Residual(), RECIPE, [], verbose=False), "must be at least one batch"),
    "other batches": (
        lambda: tq.prepare(Residual(), RECIPE, [torch.randn(2, 5, 8, 8)], verbose=False),
        "got 'float32 tensor of shape (2, 5, 8, 8)' in batch 0; the model says: RuntimeError",
    ),
    "other keywords": (
        lambda: tq.prepare(Residual(), RECIPE, {"y": torch.zeros(1), "n": [1]}, verbose=False),
        "got '{y: float32 tensor of shape (1,), n: (int)}' in batch 0; the model says: TypeError",
    ),
    "not to be copied": (
        lambda: tq.prepare(Locked(), RECIPE, verbose=False),
        "must be one that copy.deepcopy can copy",
    ),
    "no recipe": (lambda: tq.prepare(Residual(), {"weights": {}}, verbose=False), "load one with Recipe.from_file"),
    "a bare layer": (
        lambda: tq.prepare(nn.Linear(4, 2), RECIPE, [torch.ones(2, 4)], verbose=False),
        "must be a network that holds layers, got 'Linear'; put the layer into torch.nn.Sequential",
    ),
    "no model": (lambda: tq.prepare(Residual, RECIPE, verbose=False), "pass the network itself"),
    "prepared": (lambda: tq.prepare(prepared("residual")[1], RECIPE, verbose=False), "pass the float model"),
    "no such layer": (
        lambda: tq.prepare(Shared(), tq.Recipe(rules=[tq.LayerRule(name="onec", skip=True)]), verbose=False),
        "did you mean 'once'",
    ),
    "not prepared": (lambda: tq.summary(Residual()), "prepare it first"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function()


def test_calibration_on_an_endless_stream_ends_and_says_so():
    with pytest.warns(UserWarning, match=r"prepare: calibration took the first 1000 batches and left the others"):
        model = tq.prepare(nn.Sequential(nn.Linear(3, 2)), RECIPE, itertools.cycle([torch.ones(2, 3)]), verbose=False)
    assert tq.summary(model).coverage == 1


def test_inference_mode_around_it_changes_nothing():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 4)
    with torch.inference_mode():
        model = tq.prepare(network, RECIPE, [x], verbose=False)
        deployed = tq.convert(model)
    assert torch.equal(deployed(x), model(x))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("where", [lambda: torch.device("meta"), FakeTensorMode])
def test_a_network_without_values_is_refused(where):
    with where():
        network, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4)
        with pytest.raises(tq.QuantizerError, match="prepare: model must be one whose weights have values, got 'Seq"):
            tq.prepare(network, RECIPE, [x], verbose=False)
