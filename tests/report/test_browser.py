"""The pages in a real browser, where one is installed: nothing runs over, and the script does its work."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onnxprune.core.results import LayerCost, NotPruned
from onnxprune.core.targets import Target
from onnxprune.pipeline.sweep import SweepPoint, SweepResult
from onnxprune.report.html_report import html_report
from onnxprune.report.provenance import FileMark, Provenance
from onnxprune.report.sweep_report import sweep_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = (360, 800, 1280)
LONG = "/encoder/layers.11/attention/self/a_name_without_any_place_to_break_it/query/MatMul_with_an_end"
ORIGIN = Provenance(
    command=f"onnxprune prune {'folder/' * 30}model.onnx -o {'x' * 200}.onnx",
    files={"model": FileMark("a" * 300 + ".onnx", 10, "0" * 64)},
)
LOOK = """
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    const head = page.querySelector("table.sortable th.num:last-child button");
    const field = page.querySelector("input.filter");
    const column = () => head ? [...head.closest("table").tBodies[0].rows].map(
      (row) => Number(row.cells[head.parentElement.cellIndex].dataset.order)) : [];
    head?.click();
    const up = column();
    head?.click();
    const down = column();
    let left = null;
    if (field) {
      field.value = "LAYER7/";
      field.dispatchEvent(new Event("input"));
      left = [...field.nextElementSibling.querySelectorAll("tbody tr")].filter((row) => !row.hidden).length;
    }
    return {
      page: frame.name, wide: root.scrollWidth, room: root.clientWidth, up, down, left,
      operators: [...page.querySelectorAll(".name .op")].filter((part) => part.offsetParent).length,
      copy: page.querySelectorAll("button.copy").length, ink: getComputedStyle(page.body).color,
      cut: [...page.querySelectorAll("h1, h2, .value, .verdict, dd")].filter(
        (part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.textContent),
    };
  });
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(seen);
});
"""


@pytest.fixture
def pages(result) -> dict[str, str]:
    """A page of each kind."""
    long = result(groups=3)
    layers = tuple(LayerCost(f"{LONG}_{n}", "MatMul", 900, 400, 8, 2, 8, 2) for n in range(3))
    group = dataclasses.replace(long.groups[0], name=f"{LONG}_0", producers=tuple(layer.node for layer in layers))
    long = dataclasses.replace(
        *(long,),
        source=f"{'y' * 150}.onnx",
        groups=(group,),
        layers=layers,
        not_pruned=(NotPruned(LONG, f"a reason that names {LONG}", LONG),),
        warnings=(f"heavy loss: {LONG}",),
        notes=("a note " * 40, LONG),
    )
    nothing = result(groups=0, layers=(LayerCost("a", "Gemm", 9, 9, 9, 9, 10, 10),), metrics={})
    points = tuple(
        SweepPoint(Target("macs", share), result(), 1.2, {"macs": share, "params": 0.5, "latency": share}, share)
        for share in (0.9, 0.7, 0.5, 0.3)
    )
    swept = SweepResult("m.onnx", "top1", 0.95, 2.0, points, {"macs=0.1": "it cannot be met"}, {})
    return {
        "few": html_report(result(groups=5), ORIGIN),
        "many": html_report(result(groups=500), ORIGIN),
        "long": html_report(long, ORIGIN),
        "nothing": html_report(nothing, ORIGIN),
        "sweep": sweep_page(swept, ORIGIN),
    }


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_and_work(pages: dict[str, str], dark: bool, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe name="{name} {width}" style="width:{width}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    )
    wrapper = tmp_path / "look.html"
    wrapper.write_text(f"<!doctype html><body>{frames}<script>{LOOK}</script></body>", encoding="utf-8")
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    place = f"--user-data-dir={tmp_path / 'profile'}"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", theme, place)
    done = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", wrapper.as_uri()],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r"<pre>(.*)</pre>", done.stdout, re.S)
    assert found is not None, done.stderr
    seen = json.loads(html.unescape(found[1]))
    assert len(seen) == len(pages) * len(WIDTHS)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    for page in seen:
        assert page["wide"] <= page["room"], page["page"]
        assert page["cut"] == [], page["page"]
        assert page["copy"] == 1, page["page"]
        if page["page"].startswith("long"):  # on a phone there is room for what tells layers apart alone
            assert (page["operators"] == 0) == page["page"].endswith(" 360"), page["page"]
        assert page["up"] or page["page"].startswith("nothing"), page["page"]
        assert page["up"] == sorted(page["up"]), page["page"]
        assert page["down"] == sorted(page["up"], reverse=True), page["page"]
    assert {page["ink"] for page in seen} == {"rgb(233, 231, 225)" if dark else "rgb(29, 33, 38)"}
    assert {page["left"] for page in seen if page["page"].startswith("many")} == {1}
