"""Attention by its parts computes what the fused functions do."""

import itertools

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch.overrides import TorchFunctionMode
from trainable_quantizers_torch.graph.attention import PARTS, has_parts

BATCH, LENGTH, KEYS, SIZE, HEADS = 3, 5, 7, 8, 2


def tensors(batched, batch_first, sizes=(SIZE, SIZE, SIZE)):
    lengths = (LENGTH, KEYS, KEYS)
    shapes = [(length, size) for length, size in zip(lengths, sizes, strict=True)]
    if batched:
        shapes = [(BATCH, *shape) if batch_first else (shape[0], BATCH, shape[1]) for shape in shapes]
    return [torch.randn(shape) for shape in shapes]


class ByParts(TorchFunctionMode):
    """Every attention is computed by its parts."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PARTS and has_parts(func, args, kwargs or {}):
            return PARTS[func](lambda name, part, *args, **kwargs: part(*args, **kwargs), *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def by_parts(module, *arguments, **options):
    with ByParts():
        return module(*arguments, **options)


def same(fused, arguments, **options):
    for mode in (True, False):
        fused.train(mode)
        for wanted, found in zip(fused(*arguments, **options), by_parts(fused, *arguments, **options), strict=True):
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


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
@pytest.mark.parametrize("mask", [None, "boolean", "float"])
def test_scaled_dot_product(mask, options):
    torch.manual_seed(0)
    heads = 2 if options.get("enable_gqa") else 4
    q, k, v = torch.randn(3, 4, 5, 8), torch.randn(3, heads, 5, 8), torch.randn(3, heads, 5, 6)
    given = None if mask is None or "is_causal" in options else torch.randn(5, 5)
    given = given > 0 if mask == "boolean" and given is not None else given
    function = nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(by_parts(function, q, k, v, given, **options), function(q, k, v, given, **options))


def test_dropout_drops_attention_weights_in_training():
    attention = nn.MultiheadAttention(SIZE, HEADS, dropout=0.5)
    inputs = tensors(True, False)
    assert not torch.equal(by_parts(attention, *inputs)[0], by_parts(attention, *inputs)[0])
    assert torch.equal(by_parts(attention.eval(), *inputs)[0], by_parts(attention, *inputs)[0])


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_what_has_no_parts_is_left_as_it_is_and_said(options):
    network, x = nn.Sequential(Itself(**options)), torch.randn(BATCH, LENGTH, SIZE)
    model = tq.prepare(network, tq.Recipe({}, {}), [x], verbose=False).eval()
    row = next(row for row in tq.summary(model).rows if row.layer == "0.attention")
    assert "it has no parts with bias_k, bias_v or add_zero_attn" in row.reason
    assert row.activations
    assert tq.summary(model).coverage == 0
    assert torch.allclose(model(x), network.eval()(x), atol=0.1)


class Itself(nn.Module):
    """Attends to its input."""

    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_queries_without_a_key_give_zeros_and_no_gradient_that_is_none():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    x = torch.randn(BATCH, LENGTH, SIZE)
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    padding = torch.zeros(BATCH, LENGTH)
    padding[1, :2] = -torch.inf
    masks = {"attn_mask": causal, "key_padding_mask": padding, "need_weights": False}
    output, _ = by_parts(attention, x, x, x, **masks)
    torch.testing.assert_close(output, attention(x, x, x, **masks)[0], rtol=1e-4, atol=1e-6)
    output.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


def test_a_causal_hint_without_a_mask_is_refused_as_pytorch_does():
    x = torch.randn(BATCH, LENGTH, SIZE)
    with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
        by_parts(nn.MultiheadAttention(SIZE, HEADS), x, x, x, is_causal=True)


class OwnAttention(nn.MultiheadAttention):
    """A class of one's own."""

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0] + x


def test_a_class_of_ones_own_is_quantized_inside():
    network = nn.Sequential(OwnAttention(SIZE, HEADS, batch_first=True), nn.Linear(SIZE, 2))
    model = tq.prepare(network, tq.Recipe({}, {}), [torch.randn(3, 5, SIZE)], verbose=False)
    assert isinstance(model[0], OwnAttention)
    assert tq.summary(model).coverage == 1


def test_a_mask_that_is_given_is_not_quantized():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(SIZE, HEADS, 16, batch_first=True).eval()
    x, mask = torch.randn(3, LENGTH, SIZE), nn.Transformer.generate_square_subsequent_mask(LENGTH)
    model = tq.prepare(layer, tq.Recipe({}, {}), [{"memory": x, "tgt": x, "tgt_mask": mask}], verbose=False).eval()
    assert not any(row.activations for row in tq.summary(model).rows if row.layer == "tgt_mask")
    assert tq.summary(model).coverage == 1
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
    assert tq.summary(model).coverage == 1
    model.eval()
    deployed = tq.convert(model)
    for graded in (True, False):
        with torch.set_grad_enabled(graded):
            assert torch.equal(deployed(*tokens), model(*tokens))
    assert (model(*tokens) - network.eval()(*tokens)).abs().mean() < 0.2


class Masked(nn.Module):
    """An encoder with a padding mask, which evaluates by nested tensors in PyTorch, and control flow on data."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, SIZE)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(SIZE, HEADS, 16, 0.0, batch_first=True), 2)

    def forward(self, tokens):
        if tokens.sum() < 0:
            return tokens
        return self.encoder(self.words(tokens), src_key_padding_mask=tokens < 5)


def test_an_encoder_is_quantized_inside_with_masks_and_without_gradients():
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (3, 6))
    tokens[:, 0] = 7
    model = tq.prepare(Masked(), tq.Recipe({"num_bits": 4}, {"num_bits": 4}), [tokens], verbose=False)
    table = {row.layer: row for row in tq.summary(model).rows}
    assert table["encoder.layers.0.self_attn.out_proj"].weights
    assert table["encoder.layers.1.self_attn.softmax"].activations
    assert tq.summary(model).coverage == 1
    called = []
    for module in model.modules():
        if isinstance(module, tq.PytorchTrainableActivationQuantizationHolder):
            module.register_forward_hook(lambda module, args, output: called.append(module))
    with torch.no_grad():
        wanted = model.eval()(tokens)
        assert len(set(called)) == sum("Holder" in type(module).__name__ for module in model.modules())
        assert torch.equal(tq.convert(model)(tokens), wanted)
