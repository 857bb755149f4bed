"""The page of a report in a real browser: Chromium opens it, runs its script, and hands back what it then shows."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from mct_quantizers import QuantizationMethod
from trainable_quantizers_core.report import (
    ModelReport,
    QuantizerSensitivity,
    Sensitivity,
    SkippedLayer,
    TensorReport,
    measure,
    to_html,
)

HOSTILE = """<script>document.title = "owned"</script><img src=x onerror="document.title='owned'">"&amp;'"""
# layer, bits, attribute; each rounds the more, the fewer bits it has
LAYERS = [("conv10", 8, "weight"), ("relu", 4, "output"), ("conv2", 2, "weight"), (HOSTILE, 3, "weight")]


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("The page of a report is tested in a browser: apt-get install --no-install-recommends chromium")


def tensor(layer, bits, attribute):
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    target = "activation" if attribute == "output" else "weights"
    threshold, axis = (np.float32(2), None) if target == "activation" else (np.full(8, 2, np.float32), 0)
    report = TensorReport(
        layer, attribute, target, QuantizationMethod.SYMMETRIC, bits, True, {"threshold": threshold}, axis
    )
    step = 2.0 ** (2 - bits)
    return measure(report, x, np.clip(np.rint(x / step) * step, -2, 2 - step))


@pytest.fixture(scope="module")
def page():
    tensors = tuple(tensor(*layer) for layer in LAYERS)
    costs = Sensitivity((QuantizerSensitivity(HOSTILE, "weight", 4, 0.03),), 0.05)
    skipped = (SkippedLayer("bn", HOSTILE, HOSTILE),)
    return to_html(ModelReport(HOSTILE, HOSTILE, tensors, skipped, {HOSTILE: 0.9}, sensitivity=costs))


class Shown(HTMLParser):
    """Rows of the table as they are displayed: name, whether open; and the rest of what the tests ask for."""

    def __init__(self, document):
        super().__init__()
        self.rows, self.tags, self.sorted, self.text = [], [], {}, ""
        self.visible = False
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if tag == "tbody":
            self.visible = "data-search" in found and "hidden" not in found
        if tag == "th" and found.get("class") == "layer" and self.visible:
            self.rows.append([found["data-value"].removesuffix(".weight").removesuffix(".output"), None])
        if tag == "tr" and found.get("class") == "details" and self.visible:
            self.rows[-1][1] = "hidden" not in found
        if "aria-sort" in found:
            self.sorted[found["data-key"]] = found["aria-sort"]

    def handle_data(self, data):
        self.text += data

    @property
    def names(self):
        return [name for name, _ in self.rows]

    @property
    def opened(self):
        return [name for name, is_open in self.rows if is_open]


def browse(tmp_path, page, address="", actions="", screenshot=False):
    """What the page shows after its script ran, and ``actions`` too; any message on the console is an error."""
    if actions:  # the content security policy would refuse them
        page = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", f"<script>{actions}</script></body>")
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --enable-logging=stderr --window-size=1280,900"
    command = [chromium(), *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command.append(f"--screenshot={tmp_path / 'page.png'}" if screenshot else "--dump-dom")
    done = subprocess.run([*command, f"{file.as_uri()}#{address}"], capture_output=True, encoding="utf-8", timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, "\n".join(console)
    assert done.returncode == 0, done.stderr
    return Shown(done.stdout)


def test_opens_without_errors_and_shows_every_tensor_closed(tmp_path, page):
    shown = browse(tmp_path, page)
    assert shown.names == [layer for layer, *_ in LAYERS]
    assert shown.opened == []
    assert "4 of 4 shown" in shown.text
    assert shown.tags.count("svg") == 3 * 2 + 1  # channels have a drawing of their own


def test_names_are_text_whatever_they_contain(tmp_path, page):
    shown = browse(tmp_path, page)
    assert shown.tags.count("script") == 1
    assert "img" not in shown.tags
    assert shown.text.count(HOSTILE) >= 5
    assert f"{HOSTILE}, quantized" in shown.text  # the title, as it was


def test_policy_refuses_scripts_of_others(tmp_path, page):
    with pytest.raises(AssertionError, match="Content Security Policy"):
        browse(tmp_path, page.replace("</body>", "<script>document.title = 'owned'</script></body>"))


def test_errors_on_the_console_are_noticed(tmp_path, page):
    with pytest.raises(AssertionError, match="nowhere is not defined"):
        browse(tmp_path, page, actions="nowhere()")


ADDRESSES = {
    "sort=bits": (["conv2", HOSTILE, "relu", "conv10"], {"bits": "ascending"}),
    "sort=bits&order=descending": (["conv10", "relu", HOSTILE, "conv2"], {"bits": "descending"}),
    "sort=sqnr": (["conv2", HOSTILE, "relu", "conv10"], {"sqnr": "ascending"}),
    "sort=layer&filter=conv": (["conv2", "conv10"], {"layer": "ascending"}),  # by number, not by digit
    "filter=WEIGHTS+8-bit": (["conv10"], {}),
    "filter=activation": (["relu"], {}),
    "filter=nothing+like+that": ([], {}),
    "filter=%3Cscript%3E": ([HOSTILE], {}),
    "sort=nonsense&open=none": (["conv10", "relu", "conv2", HOSTILE], {}),
}


@pytest.mark.parametrize(("address", "names", "order"), [(key, *ADDRESSES[key]) for key in ADDRESSES], ids=ADDRESSES)
def test_address_sorts_and_filters(tmp_path, page, address, names, order):
    shown = browse(tmp_path, page, address)
    assert shown.names == names
    assert f"{len(names)} of 4 shown" in shown.text
    assert shown.sorted == order


def test_address_opens_all(tmp_path, page):
    shown = browse(tmp_path, page, "open=all&filter=conv")
    assert shown.opened == ["conv10", "conv2"]
    assert "Close all" in shown.text


CLICK_BITS = "document.querySelector('th.bits button').click();"
ACTIONS = [
    (CLICK_BITS, ["conv2", HOSTILE, "relu", "conv10"], []),
    (CLICK_BITS * 2, ["conv10", "relu", HOSTILE, "conv2"], []),
    ("form.filter.value = 'relu'; form.filter.dispatchEvent(new Event('input', {bubbles: true}))", ["relu"], []),
    ("document.querySelector('.tensor button').click()", ["conv10", "relu", "conv2", HOSTILE], ["conv10"]),
    ("document.querySelector('.tensor td').click();" * 2, ["conv10", "relu", "conv2", HOSTILE], []),
    ("openAll.click(); location.hash = 'filter=conv'", ["conv10", "conv2"], []),
    ("openAll.click(); " + CLICK_BITS, ["conv2", HOSTILE, "relu", "conv10"], ["conv2", HOSTILE, "relu", "conv10"]),
    ("openAll.click();" * 2, ["conv10", "relu", "conv2", HOSTILE], []),
]


@pytest.mark.parametrize(("actions", "names", "opened"), ACTIONS, ids=[action[0] for action in ACTIONS])
def test_clicks_and_typing_work(tmp_path, page, actions, names, opened):
    shown = browse(tmp_path, page, actions=actions)
    assert shown.names == names
    assert shown.opened == opened


def test_what_was_clicked_is_in_the_address(tmp_path, page):
    shown = browse(tmp_path, page, "filter=conv", CLICK_BITS * 2 + "document.body.append(location.hash)")
    assert "#filter=conv&sort=bits&order=descending" in shown.text


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_fits_its_width(tmp_path, page, width):
    """No sideways scrolling, with everything open; an unbroken name of 140 characters included."""
    long = page.replace("conv10", "conv" * 35)
    frame = f'<iframe id="frame" width="{width}" height="800"></iframe>'
    measure_it = (
        f"const page = {as_script(long)}; document.body.innerHTML = {as_script(frame)};"
        "frame.onload = () => { const inside = frame.contentDocument.documentElement;"
        "document.body.append(`${inside.scrollWidth} of ${inside.clientWidth}`) }; frame.srcdoc = page"
    )
    shown = browse(tmp_path, "<!doctype html><title>frame</title><body></body>", actions=measure_it)
    needed, given = map(int, re.search(r"(\d+) of (\d+)", shown.text).groups())
    assert needed <= given


def as_script(text):
    """A string of JavaScript that no tag in it can end."""
    return json.dumps(text).replace("<", "\\u003c")


def test_is_drawn(tmp_path, page):
    browse(tmp_path, page, "open=all", screenshot=True)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_without_a_browser_the_tests_fail_and_say_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt-get install --no-install-recommends chromium"):
        chromium()
