"""The peers' methods: what each is asked to do, and what the document calls it."""

from dataclasses import dataclass

TIME = "latency"  # the kind of a budget of measured time


@dataclass(frozen=True, slots=True)
class Method:
    """A way to use a peer.

    Attributes:
        tool: `onnxsim` or `torch-pruning`.
        criterion: what ranks channels.
        title: in the document.
        steps: whether channels go in many small steps, with scores (and gradients) taken anew before each.
        statistics: whether BatchNormalization's statistics are estimated again on the calibration rows afterwards.
        labels: whether it gets the calibration rows' labels.
    """

    tool: str
    criterion: str
    title: str
    steps: bool = False
    statistics: bool = False
    labels: bool = False

    @property
    def name(self) -> str:
        """The key in the results."""
        return ", ".join([self.criterion, *["steps"] * self.steps, *["statistics"] * self.statistics])

    def fits(self, *, normalised: bool) -> bool:
        """Whether it differs from another one on a model with or without BatchNormalization."""
        return normalised or not self.statistics


def _torch_pruning() -> tuple[Method, ...]:
    titles = {"l1": "L1", "l2": "L2", "fpgm": "FPGM", "taylor": "Taylor"}
    made = []
    for steps, statistics in ((False, False), (False, True), (True, False), (True, True)):
        for criterion, title in titles.items():
            words = [title, *["in steps"] * steps, *["statistics again"] * statistics]
            labels = criterion == "taylor"
            method = Method("torch-pruning", criterion, ", ".join(words), steps, statistics, labels)
            if criterion != "l1" or not (steps or statistics):
                made.append(method)
    return tuple(made)


METHODS = (
    Method("onnxsim", "l2", "L2"),
    Method("onnxsim", "wanda", "Wanda"),
    Method("onnxsim", "wanda+refit", "Wanda and refit"),
    Method("onnxsim", "wanda+blocks", "Wanda and block fine-tuning"),
    *_torch_pruning(),
)


def methods_of(tool: str, target: str, *, normalised: bool) -> list[Method]:
    """The methods of a tool that are tried on a model and a budget.

    Budgets of time take the criteria in steps alone where there are any: they are the better ones, and each
    candidate is timed.
    """
    own = [method for method in METHODS if method.tool == tool and method.fits(normalised=normalised)]
    if target.startswith(TIME) and any(method.steps for method in own):
        own = [method for method in own if method.steps and method.statistics == normalised]
    return own
