"""Breaks one line at a time in a copy of the sources and shows that the conformance suite notices each.

``python3 tools/dev.py mutants [TEXT]``, with a text for the mutants of files whose path holds it. Exits with 1 if a
break survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [f"packages/{name}/src/trainable_quantizers_{name}" for name in ("core", "torch", "keras")]
CORE, TORCH, KERAS = (f"{source}/quantizer" for source in SOURCES)
_, TORCH_KERNELS, KERAS_KERNELS = (f"{source}/kernels" for source in SOURCES)
MUTANTS = [  # package whose suite must notice, file, the line as it is, the line broken
    ("torch", f"{TORCH_KERNELS}/blocks.py", "torch.maximum(xs, lo, out=one)", "torch.maximum(xs, lo + 0.1, out=one)"),
    (
        "torch",
        f"{TORCH_KERNELS}/blocks.py",
        "grad_low - shift, grad_high + shift",
        "grad_low + shift, grad_high + shift",
    ),
    ("torch", f"{TORCH_KERNELS}/blocks.py", "torch.lt(xs, lo", "torch.le(xs, lo"),
    ("torch", f"{TORCH_KERNELS}/blocks.py", "< 2.0**63", "< 2.0**200"),
    ("torch", f"{TORCH_KERNELS}/jit.py", "(x[i] >= low) & (x[i] <= high)", "(x[i] > low) & (x[i] <= high)"),
    ("torch", f"{TORCH_KERNELS}/jit.py", "above + moved / num_steps", "above - moved / num_steps"),
    ("torch", f"{TORCH_KERNELS}/jit.py", "c = row % low.size", "c = 0"),
    ("torch", f"{TORCH_KERNELS}/blocks.py", ".mul_(-ewgs)", ".mul_(ewgs)"),
    ("torch", f"{TORCH_KERNELS}/jit.py", "one - np.copysign", "one + np.copysign"),
    ("torch", f"{CORE}/grid.py", "-error, error)", "error, -error)"),
    ("torch", f"{CORE}/grid.py", "slope * 0.6931472", "slope"),
    ("keras", f"{KERAS_KERNELS}/fake_quantize.py", "0.0, error / step)", "0.0, -error / step)"),
    ("keras", f"{CORE}/domain.py", "np.maximum(nearest, beyond)", "nearest"),
    ("torch", f"{CORE}/grid.py", "(x >= low) & (x <= high)", "(x > low) & (x <= high)"),
    ("torch", f"{CORE}/grid.py", "above + moved", "above - moved"),
    ("torch", f"{TORCH}/range_quantizer.py", "inputs.numel() if", "inputs.shape[0] if"),
    ("torch", f"{TORCH}/range_quantizer.py", "from_step=True", "from_step=False"),
    (
        "torch",
        f"{TORCH}/range_quantizer.py",
        "            self._set_uniform_grid(inferable)",
        "            pass",
    ),
    ("torch", f"{CORE}/range_quantizer.py", "values, not self.freeze_quant_params", "values, True"),
    (
        "torch",
        f"{TORCH}/base_quantizer.py",
        "self._owner = layer",
        "self._owner = layer.requires_grad_(False)",
    ),
    ("keras", f"{KERAS_KERNELS}/fake_quantize.py", "multiply_no_nan(error", "multiply_no_nan(-error"),
    ("keras", f"{KERAS_KERNELS}/fake_quantize.py", "grad_max * gradient_scale", "grad_max"),
    ("keras", f"{KERAS_KERNELS}/fake_quantize.py", "order[channel_axis], order[last] = last, channel_axis", "pass"),
    ("keras", f"{KERAS_KERNELS}/effective.py", "tensor / tf.maximum(divisor, -tf.abs(tensor))", "tensor / divisor"),
    (
        "keras",
        f"{KERAS}/range_quantizer.py",
        "spec.min_threshold, spec.power_of_two",
        "spec.min_threshold, False",
    ),
    ("keras", f"{CORE}/range_quantizer.py", "values, not self.freeze_quant_params", "values, True"),
    ("torch", f"{TORCH}/candidates_quantizer.py", "attention / temperature", "attention"),
    ("keras", f"{CORE}/candidates_quantizer.py", "(bits != config.num_bits, -bits)", "-bits"),
    ("torch", f"{CORE}/table.py", "above - v < v - below", "above - v <= v - below"),
    ("torch", f"{CORE}/table.py", "ops.take(gradient, ops.order(order))", "gradient"),
    ("torch", f"{CORE}/table.py", "found.level - ops.where(inside, found.v, 0.0)", "found.level - found.v"),
    ("torch", f"{CORE}/grid.py", "+ mantissa) & ~mantissa", "+ mantissa + 1) & ~mantissa"),
    ("torch", f"{CORE}/grid.py", "(gradient < 0)", "(gradient > 0)"),
    (
        "keras",
        f"{CORE}/grid.py",
        "zero_point = ops.round(-min_range / step)",
        "zero_point = -min_range // step",
    ),
    ("keras", f"{CORE}/grid.py", "max_range > narrowest", "max_range > -narrowest"),
    ("torch", f"{CORE}/specification.py", "max(shared_by, 1) * self.grid.highest", "max(shared_by, 1)"),
    ("keras", f"{CORE}/base_quantizer.py", "return {**config, _config", "return {_config"),
    ("torch", f"{CORE}/accumulator.py", "levels = ops.round(bias / step)", "levels = ops.round(bias / step) + 1"),
    (
        "keras",
        f"{CORE}/accumulator.py",
        "ops.round(sizes * factor[:, None]), [1]) * widest",
        "ops.round(sizes * factor[:, None]), [1]) * widest / 1.5",
    ),
    ("torch", f"{CORE}/ties.py", "upwards = levels > 0", "upwards = levels < 0"),
    ("keras", f"{CORE}/ties.py", "upwards = off < 0", "upwards = off > 0"),
]
MODES = {"torch": ("torch", "torch in blocks", "torch by numba"), "keras": ("keras3", "keras3 tf.function")}
SUITE = """
import sys
from trainable_quantizers_core.conformance.suite import iterate_trials, load_adapters

package, *modes = sys.argv[1:]
adapters = {adapter.name: adapter for adapter in load_adapters(package)}
for trial in iterate_trials([adapters[mode] for mode in modes], everything=True):
    if "4bit" in str(trial):
        trial.run()
"""  # at four bits, until the first broken promise


def suite_passes(package: str, folder: Path) -> bool:
    """Whether every promise of ``package`` is kept with the sources in ``folder``."""
    paths = os.pathsep.join(str(folder / source / "..") for source in SOURCES)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SUITE, f"trainable_quantizers_{package}", *MODES[package]]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def survives(package: str, file: str, line: str, broken: str) -> bool:
    """Whether the suite of ``package`` still passes with ``line`` of ``file`` broken."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for source in SOURCES:
            shutil.copytree(ROOT / source, copy / source)
        text = (copy / file).read_text()
        if text.count(line) != 1:
            raise SystemExit(f"{file} must hold {line!r} once, not {text.count(line)} times; update this list.")
        (copy / file).write_text(text.replace(line, broken))
        return suite_passes(package, copy)


def main() -> None:
    """Run the requested mutants, one line each."""
    text = "".join(sys.argv[1:2])
    mutants = [mutant for mutant in MUTANTS if text in mutant[1]]
    if not mutants:
        sys.exit(f"No mutant is of a file whose path holds {text!r}.")
    for package in sorted({mutant[0] for mutant in mutants}):
        if not suite_passes(package, ROOT):
            sys.exit(f"The suite of {package} fails without a mutant already.")
    survivors = 0
    for mutant in mutants:
        alive = survives(*mutant)
        survivors += alive
        print(
            f"{'SURVIVES' if alive else 'noticed '} {mutant[1].rpartition('/')[2]}: {mutant[2]}  ->  {mutant[3]}",
            flush=True,
        )
    print(f"{survivors} of {len(mutants)} survive.")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
