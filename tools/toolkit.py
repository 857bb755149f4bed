"""Runs the Model Compression Toolkit's QAT facade on its own trainable infrastructure and on ours.

``python tools/toolkit.py [torch|keras]`` trains a small convolutional network on the digits of scikit-learn, quantizes
it, trains, saves, loads and finalizes it, for each training method, quantization method and granularity, and prints how
far the outputs of the finalized network are from those of the trained one. See docs/migration-mct.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "zoo"))

TOOLKIT = "model_compression_toolkit"
INFRASTRUCTURE = f"{TOOLKIT}.trainable_infrastructure"
WEIGHTS = {  # the toolkit's quantizers of weights by module, and ours
    "ste_rounding.symmetric_ste": ("STEWeightQATQuantizer", "STESymmetricWeightsTrainableQuantizer"),
    "ste_rounding.uniform_ste": ("STEUniformWeightQATQuantizer", "STEUniformWeightsTrainableQuantizer"),
    "lsq.symmetric_lsq": ("LSQWeightQATQuantizer", "LSQSymmetricWeightsTrainableQuantizer"),
    "lsq.uniform_lsq": ("LSQUniformWeightQATQuantizer", "LSQUniformWeightsTrainableQuantizer"),
}
OWN, INFRASTRUCTURE_ALONE, ALL = "its own", "our infrastructure", "our quantizers too"
CASES = list(product(("POWER_OF_TWO", "SYMMETRIC", "UNIFORM"), ("per tensor", "per channel"), ("STE", "LSQ")))
BITS, STEPS, BATCH, HELD_BACK = 4, 30, 64, 256


def import_toolkit(arrangement: str) -> Any:
    """The toolkit, imported after the infrastructure that it is to use has replaced its own modules."""
    from torch_zoo import import_torchvision

    import_torchvision()
    if arrangement != OWN:
        replace_infrastructure()
    if arrangement == ALL:
        for framework, module in product(("keras", "pytorch"), WEIGHTS):
            name = f"{TOOLKIT}.qat.{framework}.quantizer.{module}"
            sys.modules[name] = ModuleType(name)
    toolkit = importlib.import_module(TOOLKIT)
    if arrangement == ALL:
        derive_weights_quantizers()
    return toolkit


def replace_infrastructure() -> None:
    """Fill modules of the toolkit's names with ours; the one that reads the toolkit's graph stays its own."""
    names = ("core", "keras", "torch")
    core, keras, torch = (importlib.import_module(f"trainable_quantizers_{name}.compat") for name in names)
    ours = {"": (keras, torch), "common": (core,), "keras": (keras,), "pytorch": (torch,)}
    spec = importlib.util.find_spec(TOOLKIT)
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for file in sorted((root / "trainable_infrastructure").rglob("*.py")):
        if file.stem == "get_quantizer_config":
            continue
        name = ".".join((TOOLKIT, *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        module = sys.modules[name] = ModuleType(name)
        if file.stem == "__init__":
            module.__path__ = [str(file.parent)]
        for source in ours[name.removeprefix(INFRASTRUCTURE).lstrip(".").partition(".")[0]]:
            vars(module).update({each: getattr(source, each) for each in source.__all__})


def derive_weights_quantizers() -> None:
    """Our quantizers of weights, below the base classes where the toolkit looks its own up."""
    for framework, package in (("keras", "keras"), ("pytorch", "torch")):
        folder = f"{TOOLKIT}.qat.{framework}.quantizer"
        base_name = f"Base{framework.capitalize()}QATWeightTrainableQuantizer"
        base = getattr(importlib.import_module(f"{folder}.base_{framework}_qat_weight_quantizer"), base_name)
        ours = importlib.import_module(f"trainable_quantizers_{package}")
        for module, (theirs, name) in WEIGHTS.items():
            derived = type(theirs, (base, getattr(ours, name)), {"__module__": f"{folder}.{module}"})
            setattr(sys.modules[derived.__module__], theirs, derived)


def target(method: str, granularity: str, weight_bits: int = BITS, activation_bits: int = BITS) -> Any:
    """The description of a target platform that quantizes everything by one method."""
    from mct_quantizers import QuantizationMethod

    parts = f"{TOOLKIT}.target_platform_capabilities"
    schema = importlib.import_module(f"{parts}.schema.mct_current_schema")
    keys = importlib.import_module(f"{parts}.constants")
    models = importlib.import_module(f"{parts}.tpc_models.qnnpack_tpc.v1_0.tpc")
    float_weights = schema.AttributeQuantizationConfig(enable_weights_quantization=False)
    kernel = schema.AttributeQuantizationConfig(
        weights_quantization_method=QuantizationMethod[method],
        weights_n_bits=weight_bits,
        weights_per_channel_threshold=granularity == "per channel",
        enable_weights_quantization=True,
    )
    operation = schema.OpQuantizationConfig(
        default_weight_attr_config=float_weights,
        attr_weights_configs_mapping={keys.KERNEL_ATTR: kernel, keys.BIAS_ATTR: float_weights},
        activation_quantization_method=QuantizationMethod[method],
        activation_n_bits=activation_bits,
        supported_input_activation_n_bits=activation_bits,
        enable_activation_quantization=True,
        quantization_preserving=False,
        fixed_scale=None,
        fixed_zero_point=None,
        simd_size=None,
        signedness=schema.Signedness.AUTO,
    )
    return models.generate_tpc(operation, operation, [], "one method")


def settings(toolkit: Any, method: str, granularity: str, training: str) -> dict[str, Any]:
    """The arguments of the facade for one case; ranges from extremes, which takes no time."""
    how = importlib.import_module(INFRASTRUCTURE).TrainingMethod[training]
    extremes = toolkit.core.QuantizationErrorMethod.NOCLIPPING
    return {
        "core_config": toolkit.core.CoreConfig(toolkit.core.QuantizationConfig(extremes, extremes)),
        "qat_config": toolkit.qat.QATConfig(how, how),
        "target_platform_capabilities": target(method, granularity),
    }


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of 8x8 pixels, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels


def batches(steps: int) -> Iterator[slice]:
    """Parts of the digits for training."""
    for step in range(steps):
        start = step * BATCH % (1797 - HELD_BACK - BATCH)
        yield slice(start, start + BATCH)


def walk_torch(toolkit: Any, folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """From float to the finalized network in PyTorch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    images, labels = digits()
    x, y = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))

    def train(model: nn.Module, steps: int) -> None:
        optimizer = torch.optim.Adam(model.train().parameters(), 1e-2)
        for batch in batches(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()

    def outputs(model: nn.Module) -> np.ndarray:
        with torch.no_grad():
            return model.eval()(x[-HELD_BACK:]).numpy()

    def again(model: nn.Module, name: str) -> np.ndarray:
        torch.save(model, folder / name)
        return outputs(torch.load(folder / name, weights_only=False))

    train(network, 100)
    model, _ = toolkit.qat.pytorch_quantization_aware_training_init_experimental(
        network.eval(), lambda: iter([[x[:BATCH].numpy()]]), **arguments
    )
    before = parameters(model.modules())
    known = {id(tensor) for tensor in quantization_parameters(model.modules())}
    names = [name for name, tensor in model.named_parameters() if id(tensor) in known]
    train(model, STEPS)
    moved = changed(before, parameters(model.modules()))
    trained, loaded = outputs(model), again(model, "trained.pt")
    finalized = toolkit.qat.pytorch_quantization_aware_training_finalize_experimental(model)
    stale = len(set(names) & set(finalized.state_dict()))
    results = (loaded, outputs(finalized), again(finalized, "finalized.pt"))
    return {**compared(trained, *results), "moved": moved, "stale": stale}


def walk_keras(toolkit: Any, folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """From float to the finalized network in Keras."""
    import tensorflow as tf

    keras, layers = tf.keras, tf.keras.layers
    keras.utils.set_random_seed(0)
    x, y = digits()
    convolutions = [layers.Conv2D(8, 3, input_shape=(8, 8, 1)), layers.BatchNormalization(), layers.ReLU()]
    convolutions += [layers.Conv2D(8, 3, strides=2), layers.ReLU()]
    network = keras.Sequential([*convolutions, layers.Flatten(), layers.Dense(10)])

    def train(model: Any, steps: int) -> None:
        model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        for batch in batches(steps):
            model.train_on_batch(x[batch], y[batch])

    def outputs(model: Any) -> np.ndarray:
        return model(x[-HELD_BACK:], training=False).numpy()  # type: ignore[no-any-return]

    def again(model: Any, name: str) -> np.ndarray:
        model.save(folder / name)
        return outputs(toolkit.keras_load_quantized_model(folder / name))

    train(network, 100)
    model, _, _ = toolkit.qat.keras_quantization_aware_training_init_experimental(
        network, lambda: iter([[x[:BATCH]]]), **arguments
    )
    before = parameters(model.layers)
    train(model, STEPS)
    moved = changed(before, parameters(model.layers))
    trained, loaded = outputs(model), again(model, "trained.keras")
    finalized = toolkit.qat.keras_quantization_aware_training_finalize_experimental(model)
    results = (loaded, outputs(finalized), again(finalized, "finalized.keras"))
    return {**compared(trained, *results), "moved": moved, "stale": 0}


WALKS: dict[str, Callable[..., dict[str, Any]]] = {"torch": walk_torch, "keras": walk_keras}


def quantization_parameters(modules: Iterable[Any]) -> list[Any]:
    """The thresholds and ends of ranges of all quantizers in these wrappers and holders."""
    held: list[Any] = []
    for module in modules:
        held += getattr(module, "weights_quantizers", {}).values()
        held += [module.activation_holder_quantizer] if hasattr(module, "activation_holder_quantizer") else []
    return [entry["var"] for each in held for entry in each.quantizer_parameters.values()]


def parameters(modules: Iterable[Any]) -> list[np.ndarray]:
    """Their values."""
    found = quantization_parameters(modules)
    return [np.array(each.detach() if hasattr(each, "detach") else each) for each in found]


def changed(before: list[np.ndarray], after: list[np.ndarray]) -> int:
    """The number of parameters that changed."""
    return sum(not np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def compared(trained: np.ndarray, loaded: np.ndarray, finalized: np.ndarray, reloaded: np.ndarray) -> dict[str, Any]:
    """The largest differences as shares of the largest output, and the accuracy of the finalized network."""
    scale = float(np.abs(trained).max())
    pairs = {"loaded": (loaded, trained), "finalized": (finalized, trained), "reloaded": (reloaded, finalized)}
    differences = {name: float(np.abs(one - other).max()) / scale for name, (one, other) in pairs.items()}
    _, labels = digits()
    return {**differences, "accuracy": float((finalized.argmax(1) == labels[-HELD_BACK:]).mean())}


def measure(arrangement: str, frameworks: list[str], file: Path) -> None:
    """Run all cases; an exception that one raises is its result."""
    toolkit = import_toolkit(arrangement)
    results = []
    for framework, case in product(frameworks, CASES):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = WALKS[framework](toolkit, Path(folder), settings(toolkit, *case))
            except Exception as error:  # anything that the toolkit raises
                found = {"error": type(error).__name__, "message": str(error)}
        results.append({"framework": framework, "case": case, **found})
    file.write_text(json.dumps(results))


def cell(result: dict[str, Any]) -> str:
    """One result in a table."""
    if "error" in result:
        return str(result["error"])
    largest = max(result["loaded"], result["finalized"], result["reloaded"])
    return "0" if largest == 0 else f"{100 * largest:.2g} %"


def is_exact(result: dict[str, Any]) -> bool:
    """Whether saving, loading and finalizing changed nothing, and training changed something that LSQ trains."""
    return cell(result) == "0" and not result["stale"] and (result["moved"] > 0 or result["case"][-1] != "LSQ")


def table(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| | | | | {' | '.join(found)} |"
    yield "|---" * (4 + len(found)) + "|"
    for row in zip(*found.values(), strict=True):
        method, granularity, training = row[0]["case"]
        words = (row[0]["framework"], method.lower().replace("_", " "), granularity, training)
        yield f"| {' | '.join((*words, *map(cell, row)))} |"
    yield ""
    for name, results in found.items():
        worked = [each for each in results if "error" not in each]
        accuracy = np.mean([each["accuracy"] for each in worked])
        stale = max(each["stale"] for each in worked)
        text = f"{len(worked)} of {len(results)} ran, mean accuracy {100 * accuracy:.1f} %"
        yield f"{name}: {text}, parameters of trained quantizers left after finalize: {stale}"


def main() -> None:
    """Each arrangement in a process of its own, because the toolkit is imported once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", nargs="?", choices=WALKS, help="one of the two; both without it")
    parser.add_argument("--arrangement", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    frameworks = [arguments.framework] if arguments.framework else list(WALKS)
    if arguments.arrangement:
        return measure(arguments.arrangement, frameworks, arguments.results)
    found = {}
    for arrangement in (OWN, INFRASTRUCTURE_ALONE, ALL):
        print(f"{arrangement} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file, log = Path(folder, "results.json"), Path(folder, "log")
            command = [sys.executable, __file__, *frameworks[: len(frameworks) % 2]]
            command += ["--arrangement", arrangement, "--results", str(file)]
            with log.open("wb") as stream:
                code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ).returncode
            if code:
                sys.exit(f"{arrangement}: the toolkit does not run.\n{log.read_text()[-3000:]}")
            found[arrangement] = json.loads(file.read_text())
    print("\n".join(table(found)))
    failures = [each for each in found[ALL] if not is_exact(each)]
    sys.exit("\n".join(f"not exact: {each}" for each in failures) if failures else 0)


if __name__ == "__main__":
    main()
