"""Repeat the experiments of the paper with onnxprune's own pieces, and write `docs/paper.md` (needs torch).

ElAraby, Wolf, Carvalho: "OAMIP: Optimizing ANN Architectures Using Mixed-Integer Programming", CPAIOR 2023. For each
data set, network and seed: train; score with the paper's program on ten held-out images; remove the units below the
threshold; remove as many units a layer at random, the most critical ones, and by SNIP; fine-tune; repair the weights
instead; and take the sub-network back to its initial weights and train it on another data set. What is done is kept in
`--work` and not done again.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_models
import numpy as np

from onnxprune import prune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.config import FinetuneConfig, OamipConfig, PreprocessConfig, PruneConfig
from onnxprune.core.engine import Engine
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.plan import PrunePlan
from onnxprune.core.scores import Scores
from onnxprune.evaluation.metrics import evaluate
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.pipeline.prepare import Prepared, prepare, score
from onnxprune.training import finetune


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the paper's table.

    Attributes:
        dataset: where the network is trained and pruned.
        network: which network.
        threshold: units with a lower score go.
        paper: the paper's figures in percent, approximately: original, random, critical, pruned, fine-tuned, removed.
        transfer: data sets that the sub-network is trained on from its initial weights.
    """

    dataset: str
    network: str
    threshold: float
    paper: tuple[float | None, ...]
    transfer: tuple[str, ...] = ()


SETTINGS = (
    Setting("mnist", "fc3", 0.1, (98.1, 83.6, None, 95.9, 97.8, 44.5), ("fashion_mnist",)),
    Setting("mnist", "fc4", 0.1, (97.9, 77.1, 50.0, 96.6, 97.6, 42.9), ("fashion_mnist",)),
    Setting("mnist", "lenet5", 0.2, (98.9, 56.9, 38.6, 98.7, 98.9, 17.2), ("fashion_mnist", "cifar10")),
    Setting("fashion_mnist", "fc3", 0.1, (87.7, 35.3, 11.7, 80.0, 88.1, 68.0)),
    Setting("fashion_mnist", "fc4", 0.1, (88.9, 38.3, 16.6, 86.9, 88.0, 60.8)),
    Setting("fashion_mnist", "lenet5", 0.2, (89.7, 33.0, 28.6, 87.7, 89.8, 17.8)),
    Setting("cifar10", "lenet5", 0.3, (72.2, 50.1, 27.5, 67.7, 68.6, 9.9)),
    Setting("cifar10", "vgg16", 0.3, (83.9, None, None, None, 85.3, 36.0), ("mnist", "fashion_mnist")),
)
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
NETWORKS = {"fc3": "FC-3", "fc4": "FC-4", "lenet5": "LeNet-5", "vgg16": "VGG-16 (decoupled)"}
# What stands below this line in the document is written by hand, and kept.
BY_HAND = "<!-- Below: by hand. -->"
COLUMNS = ("original", "random", "critical", "snip", "pruned", "fine-tuned", "repaired", "removed")


@dataclass(frozen=True, slots=True)
class Run:
    """A setting with one seed, and what it works on."""

    setting: Setting
    seed: int
    images: make_models.Images
    others: tuple[make_models.Images, ...]
    folder: Path
    epochs: int
    threads: int

    def path(self, kind: str) -> Path:
        """Where a model or the results of this run are kept."""
        suffix = "json" if kind in ("results", "plan") else "onnx"
        name = f"{self.setting.network}_{self.setting.dataset}_{self.epochs}epochs_seed{self.seed}_{kind}.{suffix}"
        return self.folder / name


def preprocessing(images: make_models.Images) -> PreprocessConfig:
    """How the data set's uint8 images become a network's input."""
    return PreprocessConfig(mean=images.mean, std=images.std)


def rows(images: make_models.Images, part: str, seed: int, model: Model) -> Dataset:
    """Training, held-out or test rows, with labels."""
    if part == "test":
        x, y = images.test_x, images.test_y
    else:
        chosen = images.split(seed)[0 if part == "train" else 1]
        x, y = images.train_x[chosen], images.train_y[chosen]
    return load_data((x, y), model, preprocessing(images))


def with_counts(
    scores: Scores, counts: Mapping[str, int], key: Callable[[Any], np.ndarray], plan: PrunePlan
) -> PrunePlan:
    """A plan that removes as many units a group as `counts`, in the order of `key`."""
    removed = {s.group: tuple(sorted(int(p) for p in key(s)[: counts.get(s.group, 0)])) for s in scores.groups}
    return PrunePlan(plan.units, {name: positions for name, positions in removed.items() if positions})


def by_the_paper(run: Run) -> PruneConfig:
    """The paper's scores and threshold, without repair."""
    return PruneConfig(
        importance="oamip",
        threshold=str(run.setting.threshold),
        round_to=1,
        repair=False,
        time=False,
        seed=run.seed,
        threads=run.threads,
        oamip=OamipConfig(decoupled=run.setting.network == "vgg16"),
    )


def repaired(run: Run) -> float:
    """Accuracy with the weights repaired after the removal that the paper's scores ask for."""
    model = load(run.path("trained"))
    held_out, test = (rows(run.images, part, run.seed, model) for part in ("held out", "test"))
    if not run.path("plan").exists():
        run.path("plan").write_text(prune(model, held_out, config=by_the_paper(run)).plan.to_json())
    plan = PrunePlan.from_json(run.path("plan").read_text())
    config = PruneConfig(seed=run.seed, threads=run.threads, time=False)
    return prune(model, held_out, evaluation=test, plan=plan, config=config).metrics["top1"].after


def measure(run: Run) -> dict[str, float]:
    """Everything the paper's table says of one network."""
    setting, engine = run.setting, Engine(run.threads)
    trained, initial = run.path("trained"), run.path("initial")
    if not trained.exists():
        make_models.train(setting.network, run.images, trained, seed=run.seed, epochs=run.epochs, initial=initial)
    model = load(trained)
    held_out, test = (rows(run.images, part, run.seed, model) for part in ("held out", "test"))
    config = by_the_paper(run)
    began = time.perf_counter()
    found = prune(model, held_out, evaluation=test, config=config)
    seconds = time.perf_counter() - began
    run.path("plan").write_text(found.plan.to_json())
    prepared = prepare(model, held_out, config, PreprocessConfig())
    top1 = {name: change for name, change in found.metrics.items() if name == "top1"}["top1"]
    results = {"original": top1.before, "pruned": top1.after, "removed": 1 - found.after.params / found.before.params}
    for name, plan in baselines(prepared, found.plan, config).items():
        results[name] = prune(model, held_out, evaluation=test, plan=plan, config=config).metrics["top1"].after
    results["repaired"] = repaired(run)
    results["fine-tuned"] = evaluate(_trained(found.model, run, run.images, 1), test, engine=engine)["top1"]
    if run.others:
        whole = load(initial)
        part = prune(whole, plan=found.plan, config=PruneConfig(repair=False, time=False)).model
        for other in run.others:
            other_test = rows(other, "test", run.seed, whole)
            for name, start in ((f"to {other.name}", part), (f"whole to {other.name}", whole)):
                results[name] = evaluate(_trained(start, run, other, run.epochs), other_test, engine=engine)["top1"]
    return results | {"seconds": seconds}


def baselines(prepared: Prepared, plan: PrunePlan, config: PruneConfig) -> dict[str, PrunePlan]:
    """As many units a layer as the paper's scores remove: random ones, the most critical, and by SNIP."""
    counts = {name: len(positions) for name, positions in plan.removed.items()}
    found = {}
    for name in ("random", "snip"):
        own = PruneConfig(importance=name, seed=config.seed, threads=config.threads)
        scores = score(prepared, own, SerialExecutor())
        found[name] = with_counts(scores, counts, lambda s: np.asarray(s.order), plan)
    removed = {
        name: tuple(sorted(np.argsort(-np.asarray(plan.scores[name]), kind="stable")[:count].tolist()))
        for name, count in counts.items()
    }
    return found | {"critical": PrunePlan(plan.units, removed)}


def _trained(model: Model, run: Run, images: make_models.Images, epochs: int) -> Model:
    config = FinetuneConfig(epochs=epochs, lr=1e-3, batch=64, seed=run.seed, threads=run.threads)
    train, held_out = (rows(images, part, run.seed, model) for part in ("train", "held out"))
    return finetune(model, train, config=config, validation=held_out).model


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * float(np.std(values, ddof=1)):.1f}"


def table(results: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> list[str]:
    """The main table: ours, with the paper's figures beneath."""
    names = ("original", "random", "most critical", "SNIP", "OAMIP", "OAMIP, fine-tuned", "OAMIP, weights repaired")
    lines = [f"| | {' | '.join(names)} | parameters removed |", "|---" * (len(names) + 2) + "|"]
    for setting in SETTINGS:
        runs = results.get((setting.dataset, setting.network))
        if not runs:
            continue
        ours = " | ".join(spread([one[column] for one in runs]) for column in COLUMNS)
        lines.append(f"| **{NAMES[setting.dataset]}, {NETWORKS[setting.network]}** | {ours} |")
        paper = ["-" if value is None else f"{value:.1f}" for value in setting.paper]
        shown = [paper[0], paper[1], paper[2], "", paper[3], paper[4], "", paper[5]]
        lines.append(f"| *the paper, about* | {' | '.join(shown)} |")
    return lines


def transfer_table(results: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> list[str]:
    """Sub-networks trained on another data set from their initial weights."""
    lines = ["| | parameters removed | sub-network | whole network |", "|---|---|---|---|"]
    for setting in SETTINGS:
        runs = results.get((setting.dataset, setting.network), ())
        for other in setting.transfer if runs else ():
            if f"to {other}" not in runs[0]:
                continue
            values = [spread([one[name] for one in runs]) for name in ("removed", f"to {other}", f"whole to {other}")]
            name = f"{NETWORKS[setting.network]}: {NAMES[setting.dataset]} to {NAMES[other]}"
            lines.append(f"| {name} | {' | '.join(values)} |")
    return lines if len(lines) > 2 else []


def document(results: Mapping[tuple[str, str], Sequence[Mapping[str, float]]], how: str, before: str = "") -> str:
    """The text of `docs/paper.md`; what is written by hand in the text `before` is kept."""
    most = max(len(runs) for runs in results.values())
    seconds = [one["seconds"] for runs in results.values() for one in runs]
    parts = [
        "# The paper's experiments\n",
        "Written by `tools/reproduce_paper.py`. Top-1 accuracy on the whole test set in percent, mean ± standard",
        f"deviation over {most} seeds. {how}\n",
        "- **OAMIP**: scores from the paper's program on ten held-out images, one a class, lambda 5; units below the",
        "  threshold (0.1 for fully connected networks, 0.2 for LeNet-5, 0.3 on CIFAR-10) go, nothing is retrained.",
        "- **random**, **most critical**, **SNIP**: as many units a layer, chosen otherwise.",
        "- **fine-tuned**: one epoch on the training rows after removal. **weights repaired**: least-squares repair on",
        "  unlabelled held-out rows instead, which the paper does not have.",
        "- The paper's figures are from memory of its table and approximate; its training differs from ours.\n",
        *table(results),
        "",
        f"Scoring and removal took {min(seconds):.1f} to {max(seconds):.1f} seconds a network.",
    ]
    transferred = transfer_table(results)
    if transferred:
        parts += [
            "\n## Generalisation\n",
            "The sub-network found on one data set is taken back to its initial weights and trained on another, beside",
            "the whole network trained alike. Top-1 accuracy on the other data set's test set. Images take the shape",
            "that the network was made for: grey or in three equal channels, cut to the middle or padded.\n",
            *transferred,
        ]
    _, mark, by_hand = before.partition(BY_HAND)
    return "\n".join(parts) + "\n" + (f"\n{mark}{by_hand}" if mark else "")


def epochs_of(given: Sequence[str]) -> dict[str, int]:
    """Epochs by data set, from `N` for all of them and `NAME=N` for one.

    Raises:
        ValueError: it is neither.
    """
    found = dict.fromkeys(make_models.DATASETS, 30)
    for text in sorted(given, key=lambda text: "=" in text):
        name, one, count = text.rpartition("=")
        if one and name not in found:
            raise ValueError(f"{name} is none of {', '.join(found)}")
        found |= {name: int(count)} if one else dict.fromkeys(found, int(count))
    return found


def described(epochs: Mapping[str, int], rows: Mapping[str, int]) -> str:
    """How the networks were trained.

    Args:
        epochs: by data set.
        rows: training rows at hand, by data set.
    """
    parts = [f"{NAMES[name]} {count:,} rows, {epochs[name]} epochs" for name, count in rows.items()]
    return f"Training: {'; '.join(parts)}."


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with mnist/, fashion_mnist/, cifar10_*.npz"
    )
    parser.add_argument("--datasets", nargs="+", choices=make_models.DATASETS, default=["mnist", "fashion_mnist"])
    parser.add_argument("--networks", nargs="+", choices=make_models.NETWORKS, default=["fc3", "fc4", "lenet5"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--epochs", nargs="+", default=[], help="of training: N, or DATASET=N for one; the paper's 30 by default"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repair-again", action="store_true", help="repair kept networks with the present code")
    parser.add_argument("--work", type=Path, default=Path("build/paper"), help="folder of models and results")
    parser.add_argument("--out", type=Path, default=Path("docs/paper.md"))
    options = parser.parse_args()
    try:
        epochs = epochs_of(options.epochs)
    except ValueError as error:
        parser.error(f"--epochs takes N or DATASET=N: {error}")
    options.work.mkdir(parents=True, exist_ok=True)

    def images(name: str) -> make_models.Images:
        return make_models.load_images(name, options.data if name == "cifar10" else options.data / name)

    def available(name: str) -> bool:
        return (options.data / name).exists() or (name == "cifar10" and any(options.data.glob("cifar10*.npz")))

    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    counts = {}
    for setting in SETTINGS:
        if setting.dataset not in options.datasets or setting.network not in options.networks:
            continue
        own = images(setting.dataset)
        others = tuple(images(name).shaped_as(own) for name in setting.transfer if available(name))
        counts[own.name] = len(own.train_x)
        for seed in options.seeds:
            run = Run(setting, seed, own, others, options.work, epochs[own.name], options.threads)
            if not run.path("results").exists():
                run.path("results").write_text(json.dumps(measure(run), indent=1))
            found = json.loads(run.path("results").read_text())
            if options.repair_again:
                found["repaired"] = repaired(run)
                run.path("results").write_text(json.dumps(found, indent=1))
            results.setdefault((setting.dataset, setting.network), []).append(found)
            print(setting.dataset, setting.network, seed, found, flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            before = options.out.read_text() if options.out.exists() else ""
            options.out.write_text(document(results, described(epochs, counts), before))


if __name__ == "__main__":
    main()
