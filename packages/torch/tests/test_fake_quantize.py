"""The fused operation against a truth table written by hand, and against hostile tensors."""

import pytest
import torch
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.quantizer.grid import Grid
from trainable_quantizers_torch.kernels.fake_quantize import fake_quantize
from trainable_quantizers_torch.kernels.limits import limited

# 3 bits signed, step 0.5: levels -4..3, range [-2, 1.5]. Halves round to even.
TABLE = [  # x, y, dL/dx, e = (y - x)/step where inside
    (-9.0, -2.0, 0.0, None),
    (-2.0, -2.0, 1.0, 0.0),
    (-0.75, -1.0, 1.0, -0.5),
    (-0.25, 0.0, 1.0, 0.5),
    (0.0, 0.0, 1.0, 0.0),
    (0.2, 0.0, 1.0, -0.4),
    (0.75, 1.0, 1.0, 0.5),
    (1.5, 1.5, 1.0, 0.0),
    (1.6, 1.5, 0.0, None),
    (9.0, 1.5, 0.0, None),
]


def run(x, from_rounding=False, scale=1.0):
    ends = [torch.tensor(end, requires_grad=True) for end in (-2.0, 1.5)]
    x = x.clone().requires_grad_()
    y = fake_quantize(x, *ends, Grid(3, True), None, from_rounding, scale)
    y.sum().backward()
    return y, x.grad, ends[0].grad, ends[1].grad


def test_forward_and_input_gradient_follow_the_table():
    x, wanted, slope, _ = zip(*TABLE, strict=True)
    y, grad_x, _, _ = run(torch.tensor(x))
    assert y.tolist() == list(wanted)
    assert grad_x.tolist() == list(slope)


def test_saturated_values_alone_move_the_ends_of_ste():
    _, _, low, high = run(torch.tensor([row[0] for row in TABLE]))
    assert (low.item(), high.item()) == (1.0, 2.0)


def test_rounding_errors_move_the_ends_of_lsq():
    errors = sum(row[3] for row in TABLE if row[3] is not None)
    _, _, low, high = run(torch.tensor([row[0] for row in TABLE]), True, 0.5)
    torch.testing.assert_close(low, torch.tensor(0.5 * (1.0 - errors / 7)))
    torch.testing.assert_close(high, torch.tensor(0.5 * (2.0 + errors / 7)))


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1),
    "strided": lambda x: x[::2, 1::3],
    "expanded": lambda x: x[:1].expand(4, -1),
    "channels last": lambda x: x.reshape(1, 4, 3, 2).to(memory_format=torch.channels_last),
    "empty": lambda x: x[:, :0],
    "scalar": lambda x: x[0, 0],
}


WAYS = {
    "small": {},
    "blocks": {"small": 0, "block": 8, "numba": False},
    "numba": {"small": 0, "thread": 8, "row": 0, "numba": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channel_axis", [None, 0])
def test_any_layout_gives_what_the_contiguous_tensor_gives(layout, channel_axis, way):
    x = LAYOUTS[layout](torch.linspace(-3, 3, 24).reshape(4, 6))
    if channel_axis is not None and x.ndim == 0:
        channel_axis = None
    shape = () if channel_axis is None else (x.shape[0],)
    low, high = torch.full(shape, -2.0), torch.full(shape, 1.5)
    results = []
    for tensor in (x, x.clone(memory_format=torch.contiguous_format)):
        leaf = tensor.detach().requires_grad_()
        with limited(**WAYS[way]):
            y = fake_quantize(leaf, low, high, Grid(3, True), channel_axis, True)
            y.sum().backward()
        results.append((y, leaf.grad))
    assert torch.equal(*[y for y, _ in results])
    assert torch.equal(*[grad for _, grad in results])


def test_a_second_derivative_is_refused():
    x = torch.tensor([0.3], requires_grad=True)
    y = fake_quantize(x * x, torch.tensor(-2.0), torch.tensor(1.5), Grid(3, True))
    (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(QuantizerError, match="double backward has no meaning"):
        first.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_leave_the_gradients_of_others_alone(bad):
    _, grad_x, low, high = run(torch.tensor([bad, 0.2]), True)
    assert grad_x.tolist() == [0.0, 1.0]
    assert torch.isfinite(low)
    assert torch.isfinite(high)
