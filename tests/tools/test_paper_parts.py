"""The parts of the paper's tools: training that goes on, modules with classifiers of their own, and the document."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the tools train networks in torch")

TOOLS = Path(__file__).resolve().parents[2] / "tools"
_SHAPE = (1, 3, 32, 32)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the package."""
    monkeypatch.syspath_prepend(str(TOOLS))
    names = ("images", "networks", "training", "greedy", "settings", "document", "experiments")
    return SimpleNamespace(**{name: importlib.import_module(f"paper.{name}") for name in names})


def coloured(paper: SimpleNamespace, rows: int) -> Any:
    """32x32 images in which a bright row tells the class."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 10
    x = rng.integers(0, 60, (rows, 32, 32, 3)).astype(np.uint8)
    x[(np.arange(32) // 3)[None] == y[:, None]] += 180
    return paper.images.Images("cifar10", x, y, x[:50], y[:50])


@pytest.mark.parametrize(("lr", "momentum"), [(0.02, 0.9), (0.001, None)])
def test_training_that_was_stopped_goes_on_to_the_same_weights(
    paper: SimpleNamespace, tmp_path: Path, lr: float, momentum: float | None
) -> None:
    images, fit = coloured(paper, 240), paper.training.fit
    recipe = paper.training.Recipe(lr=lr, batch=32, shift=1, momentum=momentum)

    def stop(text: str) -> None:
        if text.startswith("epoch 2/3"):
            raise KeyboardInterrupt

    def trained(checkpoint: Path | None, **options: Any) -> Any:
        net = paper.networks.build("lenet5", "cifar10", 0)
        fit(net, images, recipe, epochs=3, seed=0, checkpoint=checkpoint, **{"say": lambda _: None} | options)
        return net.state_dict()

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        trained(path, say=stop)
    said: list[str] = []
    resumed = trained(path, say=said.append)
    assert [text.partition(":")[0] for text in said] == ["epoch 2/3", "epoch 3/3"]
    assert not path.exists()
    for name, value in trained(None).items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_images_are_moved_one_by_one(paper: SimpleNamespace) -> None:
    x = torch.rand(40, 2, 8, 8) + 1
    moved = paper.training.augmented(x, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    found = set()
    for image, original in zip(moved, padded, strict=True):
        places = [
            (down, across, mirrored)
            for down in range(3)
            for across in range(3)
            for mirrored in (False, True)
            if torch.equal(
                image, (original.flip(-1) if mirrored else original)[:, down : down + 8, across : across + 8]
            )
        ]
        assert len(places) == 1
        found |= set(places)
    assert len(found) > 10


def test_a_module_learns_from_its_own_classifier_alone(paper: SimpleNamespace) -> None:
    net = paper.networks.build("vgg16", "cifar10", 0, 1 / 16)
    greedy = paper.greedy.Greedy(net, _SHAPE)
    greedy.train()
    x, y = torch.rand(20, *_SHAPE[1:]), torch.arange(20) % 10
    assert len(greedy.modules_) == 14
    greedy.loss(x, y).backward()
    first = greedy.modules_[0]
    together = [parameter.grad.clone() for parameter in first.parameters()]
    greedy.zero_grad()
    torch.nn.functional.cross_entropy(greedy.heads[0](first(x)), y).backward()
    for parameter, gradient in zip(first.parameters(), together, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    with torch.no_grad():
        greedy.eval()
        ((last, entering),) = list(greedy.apart(x))[-1:]
        torch.testing.assert_close(last(entering), net(x))


@pytest.mark.slow
def test_modules_with_their_classifiers_score_the_network(paper: SimpleNamespace, tmp_path: Path) -> None:
    from onnxprune import prune

    images, path = coloured(paper, 240), tmp_path / "net.onnx"
    options = {"width": 1 / 16, "seed": 0, "epochs": 1, "say": lambda _: None}
    paper.greedy.train_greedily(images, path, **options)
    again = paper.greedy.train_greedily(images, path, **options)  # as it was kept
    x, y = images.scaled(images.train_x[:40]), images.train_y[:40]
    scorer = paper.greedy.heads_scorer(again, x, y, tmp_path)
    result = prune(path, (x.numpy(), y), importance=scorer, threshold="0.3", repair=False, time=False, round_to=1)
    assert len(result.plan.scores) == 14
    assert all(0 <= score <= 1 for scores in result.plan.scores.values() for score in scores)
    gone = {name: set(positions) for name, positions in result.plan.removed.items()}
    for name, scores in result.plan.scores.items():
        below = {position for position, score in enumerate(scores) if score < 0.3}
        assert gone.get(name, set()) <= below
    assert result.after.params < result.before.params


def test_an_onnx_model_trains_on_with_its_normalisation(paper: SimpleNamespace, tmp_path: Path) -> None:
    from onnxprune.graph.load import load

    images, path = coloured(paper, 60), tmp_path / "net.onnx"
    net = paper.networks.build("vgg16", "cifar10", 0, 1 / 16).eval()
    paper.networks.export(net, path, _SHAPE)
    exported = load(path)
    for name, value in net.state_dict().items():
        if name in exported.constants:
            np.testing.assert_array_equal(exported.constants[name], value.numpy())
    recipe = paper.training.Recipe(lr=0.05, batch=32, momentum=0.9)
    paper.training.fit(net, images, recipe, epochs=1, seed=0, say=lambda _: None)
    model = paper.training.retrained(exported, images, recipe, epochs=1, seed=0, checkpoint=tmp_path / "state")
    for name, value in net.state_dict().items():
        if name in exported.constants:  # the same steps as in torch
            assert np.any(model.constants[name] != exported.constants[name]), name
            np.testing.assert_allclose(model.constants[name], value.numpy(), rtol=1e-2, atol=1e-2)


def test_a_sub_network_is_taught_with_images_of_its_size(paper: SimpleNamespace, tmp_path: Path) -> None:
    """Transfers of VGG-16 ended at its last pool: its recipe has images of half the size at first."""
    from onnxprune.graph.load import load

    paper.networks.export(paper.networks.build("vgg16", "cifar10", 0, 1 / 16).eval(), tmp_path / "net.onnx", _SHAPE)
    model, recipe = load(tmp_path / "net.onnx"), paper.experiments.WHOLE_IMAGES
    assert recipe.bfloat16
    taught = paper.training.retrained(
        model, coloured(paper, 60), recipe, epochs=2, seed=0, checkpoint=tmp_path / "state"
    )
    assert any(np.any(taught.constants[name] != value) for name, value in model.constants.items())


def test_a_document_keeps_the_rows_of_earlier_runs(paper: SimpleNamespace) -> None:
    by_name = {setting.name(): setting for setting in paper.settings.SETTINGS}
    names = ("original", "random", "critical", "snip", "pruned", "fine-tuned", "repaired", "removed")

    def measured(name: str, value: float, **more: float) -> Any:
        runs = [dict.fromkeys(names, value) | more, dict.fromkeys(names, value + 0.02) | more]
        return paper.document.Measured(by_name[name], runs, 60000, 10, 1.0, 10)

    first = paper.document.document(
        [measured("MNIST, LeNet-5", 0.5, **{"to fashion_mnist": 0.7, "whole to fashion_mnist": 0.8})]
    )
    text = paper.document.document(
        [measured("MNIST, FC-3", 0.6)], f"{first}\n{paper.document.BY_HAND}\n\n| MNIST, LeNet-5 | by hand |\n"
    )
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| *")] == [
        "**MNIST, FC-3**",
        "*the paper, about*",
        "**MNIST, LeNet-5**",
        "*the paper, about*",
    ]
    assert "| **MNIST, LeNet-5** | 51.0 ± 1.4 |" in text
    assert "| LeNet-5: MNIST to Fashion-MNIST | 51.0 ± 1.4 | 70.0 ± 0.0 | 80.0 ± 0.0 | 10, 2 |" in text
    assert text.endswith("\n\n| MNIST, LeNet-5 | by hand |\n")
    newer = paper.document.document([measured("MNIST, LeNet-5", 0.9)], text)
    assert "| **MNIST, LeNet-5** | 91.0 ± 1.4 |" in newer
    assert "51.0 ± 1.4" in newer.partition("Generalisation")[2]  # transfers that this run did not make
    assert newer.count("**MNIST, FC-3**") == 1
