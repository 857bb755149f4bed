"""``python -m trainable_quantizers_core.conformance trainable_quantizers_torch``: the suite as a command."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainable_quantizers_core.conformance.report import run_all, show, summary
from trainable_quantizers_core.conformance.suite import iterate_trials, load_adapters
from trainable_quantizers_core.errors import QuantizerError, invalid, nearest


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; returns 0 if every promise is kept, 1 if one is broken, 2 for a usage error."""
    parser = argparse.ArgumentParser(prog="python -m trainable_quantizers_core.conformance", description=__doc__)
    parser.add_argument("package", help="trainable_quantizers_torch or trainable_quantizers_keras")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome to a file")
    parser.add_argument("--only", metavar="TEXT", default="", help="only trials whose name contains this, in any case")
    parser.add_argument("--mode", metavar="NAME", help="only this way of running quantizers, such as torch or XLA")
    parser.add_argument("--everything", action="store_true", help="also the widths and axes that other trials show")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    try:
        adapters = load_adapters(options.package)
        if options.mode is not None:
            names = [adapter.name for adapter in adapters]
            adapters = [adapter for adapter in adapters if options.mode in (adapter.name, adapter.name.split()[-1])]
            if not adapters:
                rule = f"one of {', '.join(names)}"
                raise invalid("conformance", "--mode", rule, options.mode, nearest(options.mode, names))
        found = iterate_trials(adapters, everything=options.everything)
        trials = [trial for trial in found if options.only.lower() in str(trial).lower()]
        if not trials:
            raise invalid("conformance", "--only", "part of a trial's name", options.only, "try lsq, 4bit or output")
    except QuantizerError as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = run_all(trials, options.quiet)
    show(outcomes)
    if options.json:
        options.json.write_text(json.dumps(summary(outcomes), indent=1))
    return int(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
