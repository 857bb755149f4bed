"""Draws quantizers that learn by STE, LSQ, AdaRound and DQA, and the rules for gradients, as the package computes them.

Run ``python3 tools/dev.py docs plots``. Each picture in ``docs/plots`` carries the digest of its curves, by which the
tests notice that it is stale.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import trainable_quantizers_torch as tq

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "plots"
BITS, THRESHOLD, ENDS, ALPHA = 3, 1.0, (-0.5, 1.25), 1.0
TABLES = {"Weights": [-96, -24, 8, 88], "Activation": [0, 24, 88, 224]}
INPUTS = torch.linspace(-1.6, 1.6, 321)
Curves = dict[str, list[float]]


def quantizers() -> dict[str, tuple[tq.PytorchRangeQuantizer, str]]:
    """A fresh quantizer of every class with three bits, and its range in words."""
    result = {}
    for gradient in ("STE", "LSQ"):
        for method in (tq.QuantizationMethod.SYMMETRIC, tq.QuantizationMethod.UNIFORM):
            symmetric = method is tq.QuantizationMethod.SYMMETRIC
            kind = "Symmetric" if symmetric else "Uniform"
            values = {tq.THRESHOLD: THRESHOLD} if symmetric else {tq.RANGE_MIN: ENDS[0], tq.RANGE_MAX: ENDS[1]}
            where = f"t = {THRESHOLD:g}" if symmetric else f"min = {ENDS[0]:g}, max = {ENDS[1]:g}"
            weights = tq.TrainableQuantizerWeightsConfig(method, BITS, values, True, 0, False, tq.MIN_THRESHOLD)
            signed = {tq.SIGNED: False} if symmetric else {}
            activation = tq.TrainableQuantizerActivationConfig(method, BITS, values | signed, True, tq.MIN_THRESHOLD)
            for target, config in (("Weights", weights), ("Activation", activation)):
                name = f"{gradient}{kind}{target}"
                sign = ", unsigned" if symmetric and target == "Activation" else ""
                result[name] = getattr(tq, f"{name}TrainableQuantizer")(config), f"{BITS} bits{sign}, {where}"
    return result | rounding() | mixture() | tables() | rules()


def rounding() -> dict[str, tuple[tq.PytorchRangeQuantizer, str]]:
    """The quantizer that learns how each weight is rounded, before the end of its schedule."""
    method = tq.QuantizationMethod.SYMMETRIC
    config = tq.TrainableQuantizerWeightsConfig(
        method, BITS, {tq.THRESHOLD: THRESHOLD}, True, 0, False, tq.MIN_THRESHOLD
    )
    quantizer = tq.AdaRoundSymmetricWeightsTrainableQuantizer(config, schedule=tq.QuantizationSchedule(ramp=1))
    return {"AdaRoundSymmetricWeights": (quantizer, f"{BITS} bits, t = {THRESHOLD:g}, alpha = {ALPHA:g}")}


def mixture() -> dict[str, tuple[tq.PytorchRangeQuantizer, str]]:
    """The quantizer that chooses between four and two bits, at the start of its schedule."""
    values = {tq.THRESHOLD: THRESHOLD}
    candidates = [tq.TrainableQuantizerCandidateConfig(bits, values) for bits in (4, 2)]
    method = tq.QuantizationMethod.SYMMETRIC
    config = tq.TrainableQuantizerWeightsConfig(method, 4, values, True, 0, False, tq.MIN_THRESHOLD, candidates)
    quantizer = tq.DQASymmetricWeightsTrainableQuantizer(config, schedule=tq.QuantizationSchedule(ramp=1))
    return {"DQASymmetricWeights": (quantizer, f"4 and 2 bits, t = {THRESHOLD:g}")}


def tables() -> dict[str, tuple[tq.PytorchRangeQuantizer, str]]:
    """The quantizers with a table of two bits."""
    method, values = tq.QuantizationMethod.LUT_POT_QUANTIZER, {tq.THRESHOLD: THRESHOLD}
    weights = values | {tq.LUT_VALUES: TABLES["Weights"]}
    activation = values | {tq.LUT_VALUES: TABLES["Activation"], tq.SIGNED: False}
    configs = {
        "Weights": tq.TrainableQuantizerWeightsConfig(method, 2, weights, True, 0, False, tq.MIN_THRESHOLD),
        "Activation": tq.TrainableQuantizerActivationConfig(method, 2, activation, True, tq.MIN_THRESHOLD),
    }
    return {
        f"LSQTable{target}": (
            getattr(tq, f"LSQTable{target}TrainableQuantizer")(config),
            f"entries {', '.join(map(str, TABLES[target]))}, t = {THRESHOLD:g}",
        )
        for target, config in configs.items()
    }


def rules() -> dict[str, tuple[tq.PytorchRangeQuantizer, str]]:
    """Weights with a gradient rule other than that of their quantizer."""
    threshold = 0.5
    values = (tq.QuantizationMethod.SYMMETRIC, BITS, {tq.THRESHOLD: threshold}, True, 0, False)
    ewgs = tq.TrainableQuantizerWeightsConfig(*values, ewgs=0.4)
    log2 = tq.TrainableQuantizerWeightsConfig(*values, threshold_domain=tq.ThresholdDomain.LOG2)
    made = tq.LSQSymmetricWeightsTrainableQuantizer
    return {
        "EWGS": (made(ewgs), f"{BITS} bits, t = {threshold:g}, ewgs = 0.4"),
        "Log2Threshold": (made(log2), f"{BITS} bits, t = {threshold:g}"),
    }


def curves(quantizer: tq.PytorchRangeQuantizer) -> Curves:
    """Output, and the gradient of each output to its input and to every parameter, for single values."""
    owner = torch.nn.Module()
    quantizer.initialize_quantization(torch.Size([1]), "x", owner)
    parameters = {name.removeprefix("x_"): value for name, value in owner.named_parameters()}
    if quantizer.specification.log2:
        parameters = {"(log2 threshold)": parameters["threshold"]}
    if "alpha" in parameters:  # 0, where weights are not rounded at all, until it learns
        torch.nn.init.constant_(parameters["alpha"], ALPHA)
    result: Curves = {"y": [], "dy/dx": [], **{f"dy/d{name}": [] for name in parameters}}
    for value in INPUTS:
        x = value.reshape(1).requires_grad_()
        y = quantizer(x, True)
        gradients = torch.autograd.grad(y.sum(), [x, *parameters.values()], allow_unused=True)
        for name, number in zip(result, [y, *gradients], strict=True):
            if name == "dy/dattention":  # of two numbers, whose gradients are opposite
                number = number[:1]
            result[name].append(0.0 if number is None else round(number.sum().item(), 4) + 0.0)
    return result


def digest(found: Curves) -> str:
    """The digest that a plot of these curves carries."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def draw(name: str, where: str, found: Curves) -> None:
    """The picture of one quantizer: the output, and beside it the gradients."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": name, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    left.plot(INPUTS, INPUTS, color="0.8", linewidth=1)
    left.plot(INPUTS, found["y"], color="C0")
    left.set(title=f"{name}: {where}", xlabel="x", ylabel="y")
    for number, (label, values) in enumerate(list(found.items())[1:]):
        right.plot(INPUTS, values, label=label, color=f"C{number + 1}", linewidth=1.2)
    right.set(title="gradients", xlabel="x")
    right.legend(frameon=False)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Description": digest(found)})
    plt.close(figure)


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, (quantizer, where) in quantizers().items():
        draw(name, where, curves(quantizer))
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
