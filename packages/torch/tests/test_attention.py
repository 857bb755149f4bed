"""Attention by layers of its own computes what the fused module does."""

import itertools

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from trainable_quantizers_torch.graph.attention import UnfusedMultiheadAttention, unfuse_attention

BATCH, LENGTH, KEYS, SIZE, HEADS = 3, 5, 7, 8, 2


def tensors(batched, batch_first, sizes=(SIZE, SIZE, SIZE)):
    lengths = (LENGTH, KEYS, KEYS)
    shapes = [(length, size) for length, size in zip(lengths, sizes, strict=True)]
    if batched:
        shapes = [(BATCH, *shape) if batch_first else (shape[0], BATCH, shape[1]) for shape in shapes]
    return [torch.randn(shape) for shape in shapes]


def same(fused, arguments, **options):
    unfused = UnfusedMultiheadAttention(fused)
    for mode in (True, False):
        fused.train(mode)
        unfused.train(mode)
        for wanted, found in zip(fused(*arguments, **options), unfused(*arguments, **options), strict=True):
            assert (wanted is None) == (found is None)
            if wanted is not None:
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("batched", "batch_first", "bias"), itertools.product([True, False], repeat=3))
@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
def test_layouts_and_results(batched, batch_first, bias, options):
    torch.manual_seed(0)
    same(
        nn.MultiheadAttention(SIZE, HEADS, batch_first=batch_first, bias=bias), tensors(batched, batch_first), **options
    )


@pytest.mark.parametrize("batched", [True, False])
def test_keys_and_values_of_other_sizes(batched):
    torch.manual_seed(0)
    same(nn.MultiheadAttention(SIZE, HEADS, kdim=6, vdim=4), tensors(batched, False, (SIZE, 6, 4)))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("mask", ["none", "one", "of each head"])
def test_masks(mask, padding, boolean, batched):
    torch.manual_seed(0)
    count = BATCH * HEADS if batched else HEADS
    shape = {"none": None, "one": (LENGTH, KEYS), "of each head": (count, LENGTH, KEYS)}[mask]
    masks = [shape, (BATCH, KEYS) if batched else (KEYS,)] if padding else [shape, None]
    masks = [shape and torch.rand(shape) < 0.3 for shape in masks]
    for each in masks:
        if each is not None:
            each[..., 0] = False  # one key is left for each query
    if not boolean:
        masks = [each if each is None else torch.randn(each.shape) for each in masks]
    attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    same(attention, tensors(batched, True), attn_mask=masks[0], key_padding_mask=masks[1])


def test_dropout_drops_attention_weights_in_training():
    attention = UnfusedMultiheadAttention(nn.MultiheadAttention(SIZE, HEADS, dropout=0.5))
    inputs = tensors(True, False)
    assert not torch.equal(attention(*inputs)[0], attention(*inputs)[0])
    assert torch.equal(attention.eval()(*inputs)[0], attention(*inputs)[0])


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_what_it_cannot_stand_for_is_left_as_it_is(options):
    network = nn.Sequential(nn.MultiheadAttention(SIZE, HEADS, **options))
    assert type(unfuse_attention(network)[0]) is nn.MultiheadAttention


def test_a_module_that_is_used_twice_is_replaced_once_and_frozen_weights_stay_frozen():
    attention = nn.MultiheadAttention(SIZE, HEADS).requires_grad_(False)
    network = unfuse_attention(nn.ModuleList([attention, nn.ModuleList([attention])]))
    assert network[0] is network[1][0]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_queries_without_a_key_give_zeros_and_no_gradient_that_is_none():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    x = torch.randn(BATCH, LENGTH, SIZE)
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    padding = torch.zeros(BATCH, LENGTH)
    padding[1, :2] = -torch.inf
    masks = {"attn_mask": causal, "key_padding_mask": padding, "need_weights": False}
    output, _ = UnfusedMultiheadAttention(attention)(x, x, x, **masks)
    torch.testing.assert_close(output, attention(x, x, x, **masks)[0], rtol=1e-4, atol=1e-6)
    output.square().sum().backward()
    unfused = UnfusedMultiheadAttention(attention)
    unfused(x, x, x, **masks)[0].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in unfused.parameters())


def test_a_causal_hint_without_a_mask_is_refused():
    x = torch.randn(BATCH, LENGTH, SIZE)
    with pytest.raises(tq.QuantizerError, match="attn_mask must be given with is_causal, got None"):
        UnfusedMultiheadAttention(nn.MultiheadAttention(SIZE, HEADS))(x, x, x, is_causal=True)


def test_weights_that_modules_share_stay_shared():
    network = nn.ModuleList([nn.MultiheadAttention(SIZE, HEADS) for _ in range(2)])
    network[1].in_proj_weight, network[1].out_proj.weight = network[0].in_proj_weight, network[0].out_proj.weight
    one, other = unfuse_attention(network)
    assert one.k_proj.weight is other.k_proj.weight
    assert one.out_proj.weight is other.out_proj.weight
    assert one.k_proj.bias is not other.k_proj.bias


def test_what_forwards_read_of_it_is_there():
    fused = nn.MultiheadAttention(SIZE, HEADS, dropout=0.1, kdim=4)
    unfused = UnfusedMultiheadAttention(fused)
    for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "batch_first", "dropout"):
        assert getattr(unfused, name) == getattr(fused, name)


class OwnAttention(nn.MultiheadAttention):
    """A class of one's own, which may do anything."""


def test_a_class_of_ones_own_stays_in_float_and_the_rest_of_the_graph_is_quantized():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = OwnAttention(SIZE, HEADS, batch_first=True), nn.Linear(SIZE, 2)

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0] + x)

    model = tq.prepare(Network(), tq.Recipe({}, {}), [torch.randn(3, 5, SIZE)], verbose=False)
    table = {row.layer: row for row in tq.summary(model).rows}
    assert "a class of its own" in table["attention"].reason
    assert table["attention.output"].activations
    assert table["add"].activations


def test_a_mask_that_is_given_is_not_quantized():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(SIZE, HEADS, 16, batch_first=True).eval()
    x, mask = torch.randn(3, LENGTH, SIZE), nn.Transformer.generate_square_subsequent_mask(LENGTH)
    model = tq.prepare(layer, tq.Recipe({}, {}), [{"memory": x, "tgt": x, "tgt_mask": mask}], verbose=False).eval()
    rows = {row.layer: row for row in tq.summary(model).rows}
    assert "it holds infinities, as masks do" in rows["tgt_mask"].reason
    future = x.clone()
    future[:, -1] += 5
    assert torch.equal(model(x, x, mask)[:, 0], model(future, x, mask)[:, 0])


class Transformer(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.words = nn.Embedding(20, SIZE)
        self.body = nn.Transformer(SIZE, HEADS, 2, 2, 16, dropout=0.0, batch_first=True, **options)

    def forward(self, source, target):
        return self.body(self.words(source), self.words(target))


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_is_quantized_inside(norm_first):
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (3, 6)), torch.randint(0, 20, (3, 4))
    network = Transformer(norm_first=norm_first)
    recipe = tq.Recipe({"num_bits": 8}, {"num_bits": 8}, rules=[{"type": "attention", "weights": {"num_bits": 6}}])
    model = tq.prepare(network, recipe, [tokens], verbose=False)
    table = {row.layer: row for row in tq.summary(model).rows}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        for layer in ("encoder.layers.1.self_attn", "decoder.layers.0.multihead_attn"):
            assert table[f"body.{layer}.{part}"].weights.startswith("6-bit")
    assert table["body.encoder.layers.0.linear1"].weights.startswith("8-bit")
    assert not [row for row in table.values() if "Linear" in row.type and not row.weights]
    assert all(table[name].activations for name in table if name.startswith(("matmul", "add")))
    model.eval()
    deployed = tq.convert(model)
    for graded in (True, False):
        with torch.set_grad_enabled(graded):
            assert torch.equal(deployed(*tokens), model(*tokens))
    assert (model(*tokens) - network.eval()(*tokens)).abs().mean() < 0.2


class Masked(nn.Module):
    """Cannot be traced; an encoder with a padding mask, which evaluates by nested tensors in PyTorch."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, SIZE)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(SIZE, HEADS, 16, 0.0, batch_first=True), 2)

    def forward(self, tokens):
        if tokens.sum() < 0:
            return tokens
        return self.encoder(self.words(tokens), src_key_padding_mask=tokens < 5)


def test_without_a_graph_the_layers_inside_are_called_and_quantized():
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (3, 6))
    tokens[:, 0] = 7
    model = tq.prepare(Masked(), tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [tokens], verbose=False)
    table = {row.layer: row for row in tq.summary(model).rows}
    assert table["encoder.layers.0.self_attn.out_proj"].weights
    assert table["encoder.layers.1.self_attn.softmax"].activations
    called = []
    for module in model.modules():
        if isinstance(module, tq.PytorchTrainableQuantizationWrapper):
            module.register_forward_hook(lambda module, args, output: called.append(module))
    with torch.no_grad():
        wanted = model.eval()(tokens)
        assert len(set(called)) == 13
        assert torch.equal(tq.convert(model)(tokens), wanted)
