"""A report as one self-contained HTML page: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from trainable_quantizers_core.constants import TABLE, THRESHOLD
from trainable_quantizers_core.files import write_atomically
from trainable_quantizers_core.report import drawing, words
from trainable_quantizers_core.report.data import ModelReport, SkippedLayer, TensorReport
from trainable_quantizers_core.report.sensitivity import Sensitivity

# Name in the address and heading; the cells are those of _cells, in the same order.
COLUMNS = {
    "position": "#",
    "layer": "Tensor",
    "target": "Target",
    "scheme": "Scheme",
    "bits": "Bits",
    "range": "Threshold or range",
    "clipped": "Clipped",
    "levels": "Levels used",
    "sqnr": "SQNR",
    "elements": "Elements",
}


def to_html(report: ModelReport) -> str:
    """The page. Its address takes ``#filter=conv 4-bit&sort=sqnr&order=descending&open=all``, each part optional.

    A content security policy admits only its own script and no requests, even if names in it contain code.
    """
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    most = {
        "clipped": max((tensor.clipped for tensor in report.tensors), default=0.0),
        "sqnr": max((tensor.sqnr for tensor in report.tensors if tensor.sqnr < words.inf), default=0.0),
    }
    return Template(_resource("page.html")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=style,
        script=script,
        model=escape(report.model),
        framework=escape(report.framework),
        totals="\n".join(_total(label, *shown) for label, shown in words.totals(report).items()),
        headings="".join(_heading(*column) for column in COLUMNS.items()),
        rows="\n".join(_row(index, tensor, most) for index, tensor in enumerate(report.tensors, 1))
        or f'<tfoot><tr><td colspan="{len(COLUMNS)}">No tensor is quantized.</td></tr></tfoot>',
        sensitivity="" if report.sensitivity is None else _sensitivity(report.sensitivity),
        skipped="\n".join(map(_skipped, report.skipped)) or '<tr><td colspan="3">None.</td></tr>',
    )


def write_html(report: ModelReport, path: str | os.PathLike[str]) -> None:
    """Write the page; a failure leaves an older file as it was."""
    write_atomically(path, to_html(report).encode())


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _breakable(text: str) -> str:
    """Escaped, with breaks where a name has parts."""
    return escape(text).replace(".", ".<wbr>").replace("/", "/<wbr>")


def _total(label: str, figure: str, detail: str) -> str:
    return f"<div><dt>{escape(label)}</dt><dd><strong>{escape(figure)}</strong> {_breakable(detail)}</dd></div>"


def _heading(key: str, heading: str) -> str:
    return f'<th scope="col" class="{key}" data-key="{key}"><button>{heading}</button></th>'


def _skipped(layer: SkippedLayer) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in (layer.type, layer.reason))
    return f'<tr><th scope="row">{escape(layer.name)}</th>{cells}</tr>'


def _sensitivity(found: Sensitivity) -> str:
    """The section on the error of each quantizer: bars of their shares, the largest first."""
    most = max(found.shares, default=0.0)
    rows = "\n".join(
        f'<tr><th scope="row">{_breakable(each.name)}</th><td>{escape(str(each.num_bits))}</td>'
        f'<td>{words.decibels(each.sqnr)}</td><td class="share" style="--share:{_share(share, most):.0%}">'
        f"<span>{words.percent(share)}</span></td></tr>"
        for each, share in zip(found.quantizers, found.shares, strict=True)
    )
    return Template(_resource("sensitivity.html")).substitute(rows=rows, together=found.together)


def _row(index: int, tensor: TensorReport, most: dict[str, float]) -> str:
    """A row of figures, and below it one of drawings that opens."""
    search = f"{words.name(tensor)} {tensor.target} {words.scheme(tensor)} {tensor.num_bits}-bit"
    return f"""<tbody data-search="{escape(search.lower())}">
<tr class="tensor">{_cells(index, tensor, most)}</tr>
<tr class="details" id="details-{index}" hidden><td colspan="{len(COLUMNS)}">{_details(tensor)}</td></tr>
</tbody>"""


def _cells(index: int, tensor: TensorReport, most: dict[str, float]) -> str:
    low, high = tensor.typical_range
    clipped, levels, sqnr, elements = words.figures(tensor)
    shares = [_share(getattr(tensor, key), most[key]) if tensor.measured else None for key in ("clipped", "sqnr")]
    name = f"<span>{_breakable(words.name(tensor))}</span>"
    toggle = f'<button aria-expanded="false" aria-controls="details-{index}">{name}</button>'
    return "".join(
        (
            _cell("position", index, str(index)),
            f'<th scope="row" class="layer" data-value="{escape(words.name(tensor))}">{toggle}</th>',
            _cell("target", tensor.target, tensor.target),
            _cell("scheme", words.scheme(tensor), words.scheme(tensor)),
            _cell("bits", tensor.num_bits, str(tensor.num_bits)),
            _cell("range", high - low, words.parameters(tensor)),
            _cell("clipped", tensor.clipped, clipped, shares[0]),
            _cell("levels", tensor.levels_used, levels),
            _cell("sqnr", tensor.sqnr, sqnr, shares[1]),
            _cell("elements", tensor.elements, elements),
        )
    )


def _cell(key: str, value: str | float, text: str, share: float | None = None) -> str:
    """A cell that sorts by ``value``; with a bar of that share of its width."""
    bar = "" if share is None else f' style="--share:{share:.0%}"'
    # "inf" is no number to JavaScript.
    value = str(value).replace("inf", "Infinity") if isinstance(value, float) else value
    return f'<td class="{key}" data-value="{value}"{bar}>{text}</td>'


def _share(value: float, most: float) -> float:
    return min(1.0, max(0.0, value / most)) if most > 0 else 0.0


def _details(tensor: TensorReport) -> str:
    size = [words.size(part) for part in tensor.size] if tensor.target == "weights" else []
    measured = (
        f"{words.percent(tensor.levels_used)} of {2**tensor.num_bits:,} levels used",
        f"{tensor.elements:,} values",
    )
    facts = (
        f"{tensor.target}: {words.scheme(tensor)}",
        f"{'threshold' if THRESHOLD in tensor.parameters else 'range'} {words.parameters(tensor)}",
        *(measured if tensor.measured else ("not measured: the report was made without data",)),
        " → ".join(size),
        f"<strong>{tensor.not_finite:,} NaN or infinite</strong>" if tensor.not_finite else "",
    )
    figures = [_figure(drawing.histogram(tensor), drawing.domain(tensor), _histogram_caption(tensor))]
    if tensor.per_channel:
        channels = tensor.range[0].size
        figures.append(_figure(drawing.channels(tensor), (0, channels - 1), _channels_caption(tensor, channels)))
    return f'<p>{" · ".join(filter(None, facts))}</p><div class="figures">{"".join(figures)}</div>'


def _figure(svg: str, ends: tuple[float, float], caption: str) -> str:
    axis = "".join(f"<span>{words.number(end)}</span>" for end in ends)
    return f'<figure>{svg}<div class="axis">{axis}</div><figcaption>{caption}</figcaption></figure>'


def _histogram_caption(tensor: TensorReport) -> str:
    low, high = tensor.typical_range
    of = " in the channel of median range" if tensor.per_channel else ""
    values = low + tensor.places * (high - low)
    gaps = words.span(np.diff(values)) if TABLE in tensor.parameters else words.number((high - low) / len(values[1:]))
    low, high = values[0], values[-1]
    return (
        f"<i class='bars'></i>Values (square root of counts), <i class='clipped'></i>clipped ones; <i class='band'></i>"
        f"levels from {words.number(low)} to {words.number(high)}, {gaps} apart{of}."
    )


def _channels_caption(tensor: TensorReport, channels: int) -> str:
    group = drawing.group_size(channels)
    several = f"; <i class='widest'></i>widest and <i class='bars'></i>narrowest of every {group}" if group > 1 else ""
    return f"Range of each of the {channels:,} channels on axis {tensor.channel_axis}{several}."
