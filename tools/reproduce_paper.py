"""Repeat the experiments of the paper with onnxprune's own pieces, and write `docs/paper.md` (needs torch).

ElAraby, Wolf, Carvalho: "OAMIP: Optimizing ANN Architectures Using Mixed-Integer Programming", CPAIOR 2023. For each
data set, network and seed: train; score with the paper's program on held-out images; remove the units below the
threshold; remove as many units a layer at random, the most critical ones, and by SNIP; fine-tune; repair the weights
instead; and take the sub-network back to its initial weights and train it on another data set. With `--greedy` VGG-16
is trained module by module, as the paper's is. Networks and figures are kept in `--work`: what is done is not done
again, and a run that was stopped goes on. Rows of the document that a run does not make stay.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from paper.document import Measured, document
from paper.experiments import Run, measure
from paper.images import DATASETS, Images, load_images
from paper.settings import NETWORKS, SETTINGS, Setting


def epochs_of(given: Sequence[str]) -> dict[str, int]:
    """Epochs by data set and network, from `N` for all of them and `NAME=N` for one.

    Raises:
        ValueError: it is neither.
    """
    found = dict.fromkeys(DATASETS, 30)
    for text in sorted(given, key=lambda text: "=" in text):
        name, one, count = text.rpartition("=")
        if one and name not in (*DATASETS, *NETWORKS):
            raise ValueError(f"{name} is none of {', '.join((*DATASETS, *NETWORKS))}")
        found |= {name: int(count)} if one else dict.fromkeys(found, int(count))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with mnist/, fashion_mnist/, cifar10*.npz"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=["mnist", "fashion_mnist"])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["fc3", "fc4", "lenet5"])
    parser.add_argument("--greedy", action="store_true", help="only VGG-16 on CIFAR-10, trained module by module")
    parser.add_argument("--width", type=float, default=1.0, help="share of the units that VGG-16 has in each layer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--epochs", nargs="+", default=[], help="of training: N, or DATASET=N or NETWORK=N; the paper's 30 by default"
    )
    parser.add_argument(
        "--transfer", nargs="*", choices=DATASETS, default=DATASETS, help="data sets that sub-networks are trained on"
    )
    parser.add_argument("--transfer-epochs", type=int, help="of training on them; by default as many as of training")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repair-again", action="store_true", help="repair kept networks with the present code")
    parser.add_argument("--work", type=Path, default=Path("build/paper"), help="folder of models and results")
    parser.add_argument("--out", type=Path, default=Path("docs/paper.md"))
    options = parser.parse_args()
    try:
        epochs = epochs_of(options.epochs)
    except ValueError as error:
        parser.error(f"--epochs takes N, DATASET=N or NETWORK=N: {error}")
    for folder in (options.work, options.out.parent):
        folder.mkdir(parents=True, exist_ok=True)

    @cache
    def images(name: str) -> Images:
        return load_images(name, options.data if name == "cifar10" else options.data / name)

    def available(name: str) -> bool:
        return (options.data / name).exists() or (name == "cifar10" and any(options.data.glob("cifar10*.npz")))

    def wanted(setting: Setting) -> bool:
        if options.greedy or setting.greedy:
            return options.greedy and setting.greedy
        return setting.dataset in options.datasets and setting.network in options.networks

    done: list[Measured] = []
    for setting in filter(wanted, SETTINGS):
        own = images(setting.dataset)
        names = [name for name in setting.transfer if name in options.transfer and available(name)]
        others = tuple(images(name).shaped_as(own) for name in names)
        trained = epochs.get(setting.network, epochs[setting.dataset])
        taught = options.transfer_epochs or trained
        found: list[dict[str, float]] = []
        for seed in options.seeds:
            run = Run(setting, seed, own, others, options.work, trained, options.threads, options.width, taught)
            if options.repair_again and run.path("results").exists():
                known = json.loads(run.path("results").read_text())
                known.pop("repaired", None)
                run.path("results").write_text(json.dumps(known, indent=1))
            found.append(measure(run))
            print(setting.name(options.width), seed, found[-1], flush=True)
            before = options.out.read_text() if options.out.exists() else ""
            done_now = [*done, Measured(setting, found, len(own.train_x), trained, options.width, taught)]
            options.out.write_text(document(done_now, before))
        done = done_now


if __name__ == "__main__":
    main()
