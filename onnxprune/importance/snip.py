"""The scorer `snip` (Lee et al., 2019): how sensitive the loss is to a unit's weights (needs torch).

Lee, Ajanthan, Torr: "SNIP: Single-shot network pruning based on connection sensitivity", 2019. A baseline of the paper.
"""

import numpy as np

from onnxprune.calibration.dataset import Dataset
from onnxprune.calibration.runner import collect
from onnxprune.config import FinetuneConfig
from onnxprune.core.errors import InputError
from onnxprune.core.scores import GroupScore, Scores
from onnxprune.importance.base import ScoreContext
from onnxprune.importance.norms import touched
from onnxprune.outputs.reading import read_meaning
from onnxprune.structure.analysis import Analysis
from onnxprune.torchnet.network import bound_network, import_torch
from onnxprune.torchnet.objective import Objective, choose_objective

_BATCH = 128


def score(context: ScoreContext) -> Scores:
    """Score units by the sum of `|dL/dw * w|` over their weights, on one batch of at most 128 rows.

    `L` is the cross-entropy with the rows' labels, or with the model's own arg-max where there are none. The damage is
    counted as a share of the network's whole sensitivity, in all groups alike.

    Raises:
        InputError: torch or calibration data are missing, or the model has no class scores.
        ModelError: an operator has no rule for torch.
    """
    import_torch()
    if context.data is None:
        raise InputError("--importance snip needs calibration data; give --data")
    if context.data.whole:
        raise InputError("--importance snip needs a model with a batch axis")
    meaning = read_meaning(context.analysis, context.outputs)
    classifier = meaning.classifier
    if classifier is None:
        raise InputError(f"{context.model.name} has no class scores; --importance snip is for classifiers")
    batch = context.data.take(range(min(_BATCH, len(context.data))))
    name, axes = classifier.output, meaning.row_axes
    outputs = collect(context.model, batch, [name], engine=context.run.engine, row_axes=axes)
    logits = classifier.class_scores(outputs[name])[:, 0]
    labels = logits.argmax(1) if batch.classes is None else batch.classes
    notes = (
        ("there are no labels: SNIP's loss is that of the model's own predictions",) if batch.classes is None else ()
    )
    objective = choose_objective(context.model.name, meaning, labels, logits.shape[1], None, FinetuneConfig())
    sensitivity = _sensitivity(context, name, batch, labels, objective)
    places = [(name, axis) for name, array in sensitivity.items() for axis in range(array.ndim)]
    energy, known = _per_unit(context.analysis, sensitivity), touched(context.analysis, places)
    total = max(sum(float(energy[group.units].sum()) for group in context.analysis.groups), np.finfo(float).tiny)
    groups = []
    for group in context.analysis.groups:
        units = energy[group.units]
        order = np.argsort(units, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(units[order])])[::-1]
        scores = units / max(units.max(initial=0.0), np.finfo(float).tiny)
        judged = bool(known[group.units].all())
        groups.append(GroupScore(group.name, order, scores, lost / total, judged=judged))
    return Scores(tuple(groups), notes=notes)


def _sensitivity(
    context: ScoreContext, scores: str, batch: Dataset, labels: np.ndarray, objective: Objective
) -> dict[str, np.ndarray]:
    """`|gradient * weight|` of every trained constant, by name."""
    torch = import_torch()
    network = bound_network(context.model, (scores,), batch.take(range(min(4, len(batch)))))
    loss = objective.loss(network(network.inputs(batch.feeds())), None, torch.from_numpy(labels.astype(np.int64)))
    weights = list(network.parameters.values())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return {
        name: np.zeros(tuple(w.shape)) if g is None else (g * w).detach().abs().double().numpy()
        for (name, w), g in zip(network.parameters.items(), gradients, strict=True)
    }


def _per_unit(analysis: Analysis, sensitivity: dict[str, np.ndarray]) -> np.ndarray:
    """`(units,)` sums of the sensitivities over all weights that belong to each unit, each weight once.

    A weight may lie on a unit along several axes, as on the diagonal of a recurrent matrix.
    """
    sums = np.zeros(analysis.units)
    for name, array in sensitivity.items():
        labelled = [(axis, ids) for axis, ids in enumerate(analysis.labels.get(name, ())) if ids is not None]
        for position, (axis, ids) in enumerate(labelled):
            counted, along = array, np.moveaxis(np.arange(len(ids)).reshape(-1, *(1,) * (array.ndim - 1)), 0, axis)
            for other, earlier in labelled[:position]:
                if np.isin(ids, earlier).any():
                    across = np.moveaxis(np.arange(len(earlier)).reshape(-1, *(1,) * (array.ndim - 1)), 0, other)
                    counted = np.where(ids[along] == earlier[across], 0.0, counted)
            others = tuple(a for a in range(array.ndim) if a != axis)
            sums += np.bincount(ids, counted.sum(axis=others), minlength=analysis.units)
    return sums
