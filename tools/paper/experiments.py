"""What is measured of one row of the paper's table with one seed; each figure is kept once it is known."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import PruneResult, prune
from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.inputs import load_data
from onnxprune.config import FinetuneConfig, OamipConfig, PreprocessConfig, PruneConfig
from onnxprune.core.engine import Engine
from onnxprune.core.execution import SerialExecutor
from onnxprune.core.plan import PrunePlan
from onnxprune.core.scores import Scores
from onnxprune.core.targets import Target
from onnxprune.evaluation.metrics import evaluate
from onnxprune.graph.load import load
from onnxprune.graph.model import Model
from onnxprune.importance.base import Scorer
from onnxprune.pipeline.prepare import Prepared, prepare, score
from onnxprune.training import finetune
from paper.images import Images
from paper.recipes import VGG16, Recipe
from paper.settings import Setting

# A file's last pool takes no image of half the size.
WHOLE_IMAGES = replace(VGG16, half_size=0.0)


@dataclass(frozen=True, slots=True)
class Run:
    """A setting with one seed, and what it works on.

    Attributes:
        setting: the row of the table.
        seed: of everything.
        images: the data set.
        others: the data sets of transfers, in the shape of `images`.
        folder: where models, plans and figures are kept.
        epochs: of training.
        threads: of everything.
        width: share of the units that VGG-16 has in each layer.
        transfer_epochs: of training on other data sets.
    """

    setting: Setting
    seed: int
    images: Images
    others: tuple[Images, ...]
    folder: Path
    epochs: int
    threads: int
    width: float
    transfer_epochs: int

    def path(self, kind: str) -> Path:
        """Where a network ("initial", "trained"), the plan or the figures ("results") of this run are kept."""
        setting = self.setting
        deep = setting.network == "vgg16"
        network = setting.network + (f"-{self.width:g}" if deep and self.width != 1 else "")
        network += "-greedy" if setting.greedy else ""
        name = f"{network}_{setting.dataset}_{self.epochs}epochs_seed{self.seed}_"
        if kind in ("initial", "trained"):
            return self.folder / f"{name}{kind}.onnx"
        cut = "" if setting.params is None else f"_params{setting.params:g}"
        return self.folder / f"{name}{f'{setting.form}{cut}_' if deep else ''}{kind}.json"

    def kept(self, name: str, make: Callable[[], float]) -> float:
        """A figure of this run, made where it is not known yet."""
        path = self.path("results")
        known = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = make()
            path.write_text(json.dumps(known, indent=1))
        return float(known[name])


def preprocessing(images: Images) -> PreprocessConfig:
    """How the data set's uint8 images become a network's input."""
    return PreprocessConfig(mean=images.mean, std=images.std)


def rows(images: Images, part: str, seed: int, model: Model) -> Dataset:
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
    """The paper's scores and threshold, or the budget in its place, without repair."""
    setting = run.setting
    return PruneConfig(
        importance="oamip",
        threshold=None if setting.threshold is None else str(setting.threshold),
        targets=() if setting.params is None else (Target("params", setting.params),),
        round_to=1,
        repair=False,
        time=False,
        seed=run.seed,
        threads=run.threads,
        oamip=OamipConfig(form="joint" if setting.form == "heads" else setting.form),
    )


def measure(run: Run) -> dict[str, float]:
    """Everything the paper's table says of one network, as far as it is not kept from earlier."""
    setting, engine = run.setting, Engine(run.threads)
    trained = run.path("trained")
    if setting.greedy:
        from paper.greedy import train_greedily

        train_greedily(run.images, trained, width=run.width, seed=run.seed, epochs=run.epochs)
    elif not trained.exists():
        from paper.training import train

        train(
            setting.network,
            run.images,
            trained,
            seed=run.seed,
            epochs=run.epochs,
            width=run.width,
            initial=run.path("initial"),
        )
    model = load(trained)
    held_out, test = (rows(run.images, part, run.seed, model) for part in ("held out", "test"))
    config = by_the_paper(run)
    if not run.path("plan").exists():
        began = time.perf_counter()
        importance = _heads(run) if setting.form == "heads" else config.importance
        run.path("plan").write_text(prune(model, held_out, config=config, importance=importance).plan.to_json())
        run.kept("seconds", lambda: time.perf_counter() - began)
    plan = PrunePlan.from_json(run.path("plan").read_text())

    @cache
    def others() -> dict[str, PrunePlan]:
        return baselines(prepare(model, held_out, config, PreprocessConfig()), plan, config)

    def after(plan: PrunePlan) -> PruneResult:
        return prune(model, plan=plan, config=PruneConfig(repair=False, time=False, threads=run.threads))

    def top1(model: Model) -> float:
        return evaluate(model, test, engine=engine)["top1"]

    @cache
    def found() -> PruneResult:
        return after(plan)

    results = {
        "removed": run.kept("removed", lambda: 1 - found().after.params / found().before.params),
        "original": run.kept("original", lambda: top1(model)),
        "pruned": run.kept("pruned", lambda: top1(found().model)),
    }
    for name in ("random", "critical", "snip"):
        results[name] = run.kept(name, lambda name=name: top1(after(others()[name]).model))  # type: ignore[misc]
    results["fine-tuned"] = run.kept("fine-tuned", lambda: top1(_tuned(found().model, run)))
    results["repaired"] = run.kept("repaired", lambda: repaired(run))
    if run.others:
        whole = load(run.path("initial"))

        @cache
        def part() -> Model:
            return prune(whole, plan=plan, config=PruneConfig(repair=False, time=False)).model

        for images in run.others:
            for name, start in ((f"to {images.name}", part), (f"whole to {images.name}", lambda: whole)):
                kept_as = name if run.transfer_epochs == run.epochs else f"{name} in {run.transfer_epochs} epochs"
                results[name] = run.kept(kept_as, partial(_taught, start, run, images, kept_as))
    return results


def _heads(run: Run) -> Scorer:
    """Scores from the modules of a network that was trained with their classifiers."""
    from paper.greedy import heads_scorer, train_greedily

    images = run.images
    greedy = train_greedily(images, run.path("trained"), width=run.width, seed=run.seed, epochs=run.epochs)
    _, held_out = images.split(run.seed)
    x, y = images.scaled(images.train_x[held_out]), images.train_y[held_out]
    return heads_scorer(greedy, x, y, run.path("modules").with_suffix(""))


def repaired(run: Run) -> float:
    """Accuracy with the weights repaired after the removal that the paper's scores ask for."""
    model = load(run.path("trained"))
    held_out, test = (rows(run.images, part, run.seed, model) for part in ("held out", "test"))
    plan = PrunePlan.from_json(run.path("plan").read_text())
    config = PruneConfig(seed=run.seed, threads=run.threads, time=False)
    return prune(model, held_out, evaluation=test, plan=plan, config=config).metrics["top1"].after


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


def _tuned(model: Model, run: Run) -> Model:
    """A pruned model after one epoch on the rows that the network was trained on."""
    if run.setting.network == "vgg16":
        gentle = replace(WHOLE_IMAGES, lr=0.01)
        return _retrained(model, run, run.images, gentle, 1, "tuned")
    return _finetuned(model, run, run.images, 1)


def _taught(initial: Callable[[], Model], run: Run, images: Images, name: str) -> float:
    """Accuracy of a model with its initial weights after training on another data set."""
    model = initial()
    if run.setting.network == "vgg16":
        trained = _retrained(model, run, images, WHOLE_IMAGES, run.transfer_epochs, name)
    else:
        trained = _finetuned(model, run, images, run.transfer_epochs)
    return evaluate(trained, rows(images, "test", run.seed, trained), engine=Engine(run.threads))["top1"]


def _retrained(model: Model, run: Run, images: Images, recipe: Recipe, epochs: int, name: str) -> Model:
    from paper.training import retrained

    path = run.path(name.replace(" ", "-")).with_suffix(".checkpoint")
    return retrained(model, images, recipe, epochs=epochs, seed=run.seed, checkpoint=path)


def _finetuned(model: Model, run: Run, images: Images, epochs: int) -> Model:
    config = FinetuneConfig(epochs=epochs, lr=1e-3, batch=64, seed=run.seed, threads=run.threads)
    training, held_out = (rows(images, part, run.seed, model) for part in ("train", "held out"))
    return finetune(model, training, config=config, validation=held_out).model
