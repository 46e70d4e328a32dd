"""Vary the paper's program one thing at a time, and write `docs/paper-variations.md` (needs torch).

What is varied: the images in the program, the weight of the loss, and each point where the authors' code differs from
ours. Beside the tables stands a figure of accuracy against parameters removed, for the paper's scores and for as many
units a layer chosen otherwise. Networks, held-out rows and their manifest are those of `make_models.py`. Rows and
figures that a run does not make stay as the document has them.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from paper.experiments import baselines, preprocessing, with_counts
from paper.images import load_images

from onnxprune import prune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.config import OamipConfig, PreprocessConfig, PruneConfig
from onnxprune.core.engine import Engine
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.plan import PrunePlan
from onnxprune.core.targets import Target
from onnxprune.evaluation.metrics import evaluate
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.importance.norms import units_on
from onnxprune.pipeline.prepare import Prepared, prepare, score

NETWORKS = {"fc3": ("FC-3", "0.1"), "lenet5": ("LeNet-5", "0.2")}
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
LAMBDAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
IMAGES = ("10", "random:10", "per-class:1", "50", "random:50", "100", "random:100", "per-class:10")
CHOICES: Mapping[str, OamipConfig] = {
    "ours": OamipConfig(form="joint"),
    "sparsity term with C·kh·kw neurons a convolution": OamipConfig(form="joint", sparsity="kernels"),
    "raw upper bounds of layers without ReLU": OamipConfig(form="joint", linear="raw"),
    "input box clamped": OamipConfig(form="joint", box="clamped"),
    "one program a class with 1 image": OamipConfig(form="joint", images="per-class:1"),
    "from the last layer to the first": OamipConfig(form="joint", order="last-first"),
    "affine, with rows": OamipConfig(form="affine", images="10"),
    "affine, without rows": OamipConfig(form="affine", images="10", rows="none"),
    "affine, without rows, 200 images": OamipConfig(form="affine", rows="none"),
}
AS_THEY_COUNT = "ours, as they count it"
RANDOM = "as many random units a layer"
RANDOM_AGAIN = "as many random units, drawn with replacement among scores above 0"
ROWS = (*CHOICES, AS_THEY_COUNT, RANDOM, RANDOM_AGAIN)
DRAWS = 5
COLOURS = ("#1b6ca8", "#999999", "#c0392b", "#d68910", "#1e8449")


@dataclass(frozen=True, slots=True)
class Bench:
    """One network and its rows.

    Attributes:
        name: of the network.
        threshold: units with a lower score go.
        model: the network.
        held_out: rows that it was not trained on.
        test: what it is judged on.
        threads: of everything.
    """

    name: str
    threshold: str
    model: Model
    held_out: Dataset
    test: Dataset
    threads: int

    def config(self, oamip: OamipConfig, targets: tuple[Target, ...] = ()) -> PruneConfig:
        """The paper's scores without repair, by threshold where there is no budget."""
        threshold = None if targets else self.threshold
        common = PruneConfig(
            importance="oamip", round_to=1, repair=False, time=False, threads=self.threads, oamip=oamip
        )
        return replace(common, threshold=threshold, targets=targets)

    def top1(self, plan: PrunePlan) -> float:
        """Accuracy after the removal that a plan asks for."""
        config = PruneConfig(repair=False, time=False, threads=self.threads)
        return evaluate(prune(self.model, plan=plan, config=config).model, self.test, engine=Engine(self.threads))[
            "top1"
        ]


def variation(bench: Bench, oamip: OamipConfig) -> list[str]:
    """Accuracy, parameters removed, and seconds, as cells of a table."""
    found = prune(bench.model, bench.held_out, evaluation=bench.test, config=bench.config(oamip))
    removed = 1 - found.after.params / found.before.params
    return [f"{100 * found.metrics['top1'].after:.2f}", f"{100 * removed:.1f}", f"{found.timings['score']:.1f}"]


def authors_view(bench: Bench) -> list[str]:
    """What the authors' code reports of our scores: biases of removed units stay, only their own weights count."""
    plan = prune(bench.model, bench.held_out, config=bench.config(CHOICES["ours"])).plan
    prepared = prepare(bench.model, bench.held_out, bench.config(CHOICES["ours"]), PreprocessConfig())
    analysis = prepared.analysis
    gone = analysis.none_removed()
    for group in analysis.groups:
        gone[group.units[list(plan.removed.get(group.name, ()))]] = True
    changed: dict[str, np.ndarray] = {}
    own = total = 0
    for layer in analysis.layers:
        weight = np.array(analysis.value(layer.weight))
        units = units_on(analysis, layer.weight, layer.out_axis)
        removed = np.zeros(weight.shape[layer.out_axis], bool) if units is None else gone[units]
        np.moveaxis(weight, layer.out_axis, 0)[removed] = 0.0
        changed[layer.weight] = weight
        own += int(removed.sum()) * (weight.size // len(removed))
        total += weight.size + len(removed)
    masked = evaluate(analysis.model.with_constants(changed), bench.test, engine=Engine(bench.threads))["top1"]
    return [f"{100 * masked:.2f}", f"{100 * own / total:.1f}", ""]


def random_units(bench: Bench, *, again: bool) -> list[str]:
    """As many random units a layer as our scores remove, the mean of several draws.

    Args:
        bench: network and rows.
        again: draw with replacement among units whose score is above 0, as the authors do: fewer different ones go.
    """
    plan = prune(bench.model, bench.held_out, config=bench.config(CHOICES["ours"])).plan
    config = PruneConfig(repair=False, time=False, threads=bench.threads)
    accuracies, shares = [], []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        removed = {}
        for name, positions in plan.removed.items():
            scores = np.asarray(plan.scores[name])
            among = np.flatnonzero(scores > 0) if again else np.arange(len(scores))
            drawn = rng.choice(among, len(positions), replace=again)
            removed[name] = tuple(sorted({int(position) for position in drawn}))
        found = prune(bench.model, plan=PrunePlan(plan.units, removed), config=config)
        shares.append(1 - found.after.params / found.before.params)
        accuracies.append(evaluate(found.model, bench.test, engine=Engine(bench.threads))["top1"])
    return [f"{100 * np.mean(accuracies):.2f}", f"{100 * np.mean(shares):.1f}", ""]


def curves(bench: Bench, shares: Sequence[float]) -> dict[str, list[tuple[float, float]]]:
    """Accuracy by share of parameters removed: the paper's scores, and as many units a layer chosen otherwise."""
    found: dict[str, list[tuple[float, float]]] = {}
    for share in shares:
        config = bench.config(CHOICES["ours"], (Target("params", share),))
        result = prune(bench.model, bench.held_out, evaluation=bench.test, config=config)
        removed = 1 - result.after.params / result.before.params
        found.setdefault("OAMIP", []).append((removed, result.metrics["top1"].after))
        prepared = prepare(bench.model, bench.held_out, config, PreprocessConfig())
        for name, plan in (baselines(prepared, result.plan, config) | magnitude(prepared, result.plan, config)).items():
            found.setdefault(name, []).append((removed, bench.top1(plan)))
    return found


def magnitude(prepared: Prepared, plan: PrunePlan, config: PruneConfig) -> dict[str, PrunePlan]:
    """As many units a layer as a plan removes, the ones of the smallest weights."""
    own = PruneConfig(importance="magnitude", threads=config.threads)
    counts = {name: len(positions) for name, positions in plan.removed.items()}
    scores = score(prepared, own, SerialExecutor())
    return {"magnitude": with_counts(scores, counts, lambda s: np.asarray(s.order), plan)}


SHARES_REMOVED = {share / 10: f"{10 * share}" for share in range(0, 11, 2)}


def figure(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    across: tuple[str, Mapping[float, str]] = ("parameters removed, %", SHARES_REMOVED),
    up: str = "top-1, %",
) -> str:
    """Curves as an SVG; both coordinates run from 0 to 1, and upwards they are shown in percent.

    Args:
        lines: points by name.
        title: above the figure.
        across: what runs from left to right, and the text at some places.
        up: what runs upwards.
    """
    left, top, width, height = 52, 30, 400, 260

    def at(x: float, y: float) -> str:
        return f"{left + width * x:.1f},{top + height * (1 - y):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 120} {top + height + 45}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{left}" y="18">{title}</text>',
    ]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        y = float(at(0, tick).split(",")[1])
        parts += [
            f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#dddddd"/>',
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{100 * tick:.0f}</text>',
        ]
    for place, text in across[1].items():
        x = at(place, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{top + height + 16}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{across[0]}</text>'
        f'<text transform="translate(14 {top + height / 2}) rotate(-90)" text-anchor="middle">{up}</text>'
    )
    for row, ((name, points), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        y = top + 14 + 18 * row
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(at(*p) for p in points)}"/>',
            f'<line x1="{left + width + 12}" x2="{left + width + 32}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2"/><text x="{left + width + 38}" y="{y + 4}">{name}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def lambda_figure(cells: Mapping[str, Sequence[Sequence[str]]], names: Sequence[str]) -> str:
    """Accuracy and parameters removed by the weight of the loss, on a logarithmic scale, from the table's cells."""
    logs = np.log([float(weight) for weight in cells])
    places = ((logs - logs.min()) / max(float(np.ptp(logs)), 1e-9)).tolist()
    lines = {}
    for number, name in enumerate(names):
        for column, what in enumerate(("top-1", "removed")):
            values = [float(parts[number][column]) / 100 for parts in cells.values()]
            lines[f"{name}, {what}"] = list(zip(places, values, strict=True))
    return figure(lines, "Weight of the loss", ("lambda", dict(zip(places, cells, strict=True))), "%")


def table(
    head: str, rows: Mapping[str, Sequence[Sequence[str]]], names: Sequence[str], order: Sequence[str], before: str
) -> Iterator[str]:
    """A table with three columns a network.

    Args:
        head: of the first column.
        rows: cells of each network, by the first cell.
        names: of the networks.
        order: of the rows.
        before: the document as it was: rows of its table with these columns stay where there are no new ones.
    """
    first = f"| {head} | " + " | ".join(f"{name}: top-1 | removed, % | seconds" for name in names) + " |"
    _, _, kept = before.partition(first + "\n")
    lines = {line.split("|")[1].strip(): line for line in kept.partition("\n\n")[0].splitlines()[1:]}
    for name, cells in rows.items():
        lines[name] = f"| {name} | " + " | ".join(cell for part in cells for cell in part) + " |"
    yield first
    yield "|---" + "|--:" * 3 * len(names) + "|"
    for name in sorted(lines, key=lambda name: order.index(name) if name in order else len(order)):
        yield lines[name]


def document(
    benches: Sequence[Bench],
    figures: Path,
    choices: Sequence[str],
    images_of: Sequence[str],
    weights: Sequence[float],
    shares: Sequence[float],
    before: str,
) -> str:
    """The text; figures are written into a folder.

    Args:
        benches: networks and rows.
        figures: the folder.
        choices: rows of the first table.
        images_of: choices of images, as `--oamip-images` takes them.
        weights: of the loss.
        shares: of the parameters that are left, in the figures.
        before: the document as it was.
    """
    names = [bench.name for bench in benches]
    lambdas = {f"{weight:g}": OamipConfig(form="joint", lambda_=weight) for weight in weights}
    images = {text: OamipConfig(form="joint", images=text) for text in images_of}

    def measured(choices: Mapping[str, OamipConfig]) -> dict[str, list[list[str]]]:
        return {name: [variation(bench, choice) for bench in benches] for name, choice in choices.items()}

    weighed = measured(lambdas)
    if weighed:
        (figures / "paper-lambda.svg").write_text(lambda_figure(weighed, names))
    others: Mapping[str, Callable[[Bench], list[str]]] = {
        AS_THEY_COUNT: authors_view,
        RANDOM: partial(random_units, again=False),
        RANDOM_AGAIN: partial(random_units, again=True),
    }
    chosen = measured({name: choice for name, choice in CHOICES.items() if name in choices})
    chosen |= {name: [view(bench) for bench in benches] for name, view in others.items() if name in choices}
    thresholds = " and ".join(f"{bench.threshold} ({bench.name})" for bench in benches)
    parts = [
        "# The paper's program, varied\n",
        "Written by `tools/vary_paper.py`: the shipped MNIST networks, units below the threshold "
        f"{thresholds} removed and",
        "nothing repaired. One network and one seed each; top-1 in percent on the test set. Without another word:",
        "the joint form, 10 images balanced by class, lambda 5.\n",
        "## Against the authors' code\n",
        *table("choice", chosen, names, ROWS, before),
        "\nAs they count it: the biases of removed units stay, and only a unit's own weights count as removed.",
        f"Random units: the mean of {DRAWS} draws; drawn with replacement, fewer different ones go.\n",
        "## Images\n",
        *table("images", measured(images), names, IMAGES, before),
        "\n## Weight of the loss\n",
        *table("lambda", weighed, names, [f"{weight:g}" for weight in LAMBDAS], before),
        "\n![Accuracy and parameters removed by the weight of the loss](paper-lambda.svg)",
        "\n## Accuracy against parameters removed\n",
        "The paper's scores choose the widths, under budgets on parameters; the others remove as many units a layer.\n",
    ]
    for bench in benches:
        path = figures / f"paper-{bench.name.lower()}.svg"
        if shares:
            path.write_text(figure(curves(bench, shares), f"{bench.name} on MNIST"))
        parts.append(f"![{bench.name}: accuracy against parameters removed]({path.name})")
    return "\n".join(parts) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of the MNIST files")
    parser.add_argument("--models", type=Path, default=Path("models"), help="what make_models.py made")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--choices", nargs="*", choices=ROWS, default=ROWS, metavar="ROW", help="of the first table")
    parser.add_argument("--images", nargs="*", default=IMAGES, help="choices of images")
    parser.add_argument("--lambdas", nargs="*", type=float, default=LAMBDAS, help="weights of the loss")
    parser.add_argument(
        "--shares", nargs="*", type=float, default=SHARES, help="of the parameters left, in the figures"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/paper-variations.md"), help="figures go beside it")
    options = parser.parse_args()
    images = load_images("mnist", options.data)
    benches = []
    with np.load(options.models / "mnist_calibration.npz") as held:
        rows = held["x"], held["y"]
    for network in options.networks:
        model = load(options.models / f"{network}_mnist.onnx")
        name, threshold = NETWORKS[network]
        held_out, test = (
            load_data(part, model, preprocessing(images)) for part in (rows, (images.test_x, images.test_y))
        )
        benches.append(Bench(name, threshold, model, held_out, test, options.threads))
    before = options.out.read_text() if options.out.exists() else ""
    text = document(
        benches, options.out.parent, options.choices, options.images, options.lambdas, options.shares, before
    )
    options.out.write_text(text)


if __name__ == "__main__":
    main()
