"""The rows of the paper's table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the paper's table.

    Attributes:
        dataset: where the network is trained and pruned.
        network: which network.
        paper: the paper's figures in percent, approximately: original, random, critical, pruned, fine-tuned, removed.
        threshold: units with a lower score go; None where there is a budget.
        params: share of the parameters that are left, instead of a threshold.
        form: of the program, as `--oamip-form` takes it; "heads" for the programs of modules that were trained with
            classifiers of their own.
        greedy: whether the network is trained module by module.
        transfer: data sets that the sub-network is trained on from its initial weights.
    """

    dataset: str
    network: str
    paper: tuple[float | None, ...] = (None,) * 6
    threshold: float | None = None
    params: float | None = None
    form: str = "joint"
    greedy: bool = False
    transfer: tuple[str, ...] = ()

    def called(self, width: float) -> str:
        """What the document calls the network; `width` is the share of units that VGG-16 has in each layer."""
        narrow = self.network == "vgg16" and width != 1
        return NETWORKS[self.network] + (f" with {width:.0%} of its width".replace("%", " %") if narrow else "")

    def name(self, width: float = 1.0) -> str:
        """What the document calls the row."""
        name = f"{NAMES[self.dataset]}, {self.called(width)}"
        if self.network == "vgg16":
            name += ", trained greedily" if self.greedy else ""
            name += f", {FORMS[self.form]}"
            cut = f"below {self.threshold}" if self.params is None else f"{1 - self.params:.0%} of parameters"
            name += ", " + cut.replace("%", " %")
        return name


NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
NETWORKS = {"fc3": "FC-3", "fc4": "FC-4", "lenet5": "LeNet-5", "vgg16": "VGG-16"}
FORMS = {"affine": "affine", "decoupled": "decoupled, heads fitted afterwards", "heads": "decoupled, its own heads"}
_VGG16 = (83.9, None, None, None, 85.3, 36.0)

SETTINGS = (
    Setting("mnist", "fc3", (98.1, 83.6, None, 95.9, 97.8, 44.5), 0.1, transfer=("fashion_mnist",)),
    Setting("mnist", "fc4", (97.9, 77.1, 50.0, 96.6, 97.6, 42.9), 0.1, transfer=("fashion_mnist",)),
    Setting("mnist", "lenet5", (98.9, 56.9, 38.6, 98.7, 98.9, 17.2), 0.2, transfer=("fashion_mnist", "cifar10")),
    Setting("fashion_mnist", "fc3", (87.7, 35.3, 11.7, 80.0, 88.1, 68.0), 0.1),
    Setting("fashion_mnist", "fc4", (88.9, 38.3, 16.6, 86.9, 88.0, 60.8), 0.1),
    Setting("fashion_mnist", "lenet5", (89.7, 33.0, 28.6, 87.7, 89.8, 17.8), 0.2),
    Setting("cifar10", "lenet5", (72.2, 50.1, 27.5, 67.7, 68.6, 9.9), 0.3),
    Setting("cifar10", "vgg16", _VGG16, params=0.64, form="affine", transfer=("mnist", "fashion_mnist")),
    Setting("cifar10", "vgg16", params=0.4, form="affine"),
    Setting("cifar10", "vgg16", _VGG16, params=0.64, form="decoupled"),
    Setting("cifar10", "vgg16", params=0.4, form="decoupled"),
    Setting("cifar10", "vgg16", _VGG16, params=0.64, form="heads", greedy=True),
    Setting("cifar10", "vgg16", params=0.64, form="decoupled", greedy=True),
    Setting("cifar10", "vgg16", params=0.64, form="affine", greedy=True),
    Setting("cifar10", "vgg16", threshold=0.3, form="heads", greedy=True),
)
