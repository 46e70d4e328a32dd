"""All options of onnxprune. Command line, TOML file and Python API are generated from these dataclasses.

The `help` in a field's metadata is the text of the command-line option. Nothing is checked against a model here.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnxprune.core.costs import COST_KINDS, COUNTED
from onnxprune.core.engine import ROOM, Engine, Provider, RunOptions
from onnxprune.core.options import described, option, parse_size
from onnxprune.core.targets import Target

MOST_THREADS = 1024
KERNELS = ("cpu", "cuda", "tensorrt", "int8", "arm")  # the rules of --kernels


@described
@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How integer images are converted to the model's input: `(x * scale - mean) / std`, then the layout.

    Example:
        ```python
        shown = onnxprune.PreprocessConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        ```
    """

    mean: tuple[float, ...] = option((), "Per-channel mean, subtracted after scaling.", metavar="A,B,C")
    std: tuple[float, ...] = option((), "Per-channel standard deviation, divided by.", metavar="A,B,C")
    scale: float | None = option(
        None, "Factor; by default 1/255 for integer images where --mean or --std is given, else 1."
    )
    layout: str = option("auto", "Layout the model expects.", choices=("auto", "nchw", "nhwc"))
    size: int | None = option(None, "Resize the short side to this, then crop the centre (image folders).", minimum=1)


@described
@dataclass(frozen=True, slots=True)
class OamipConfig:
    """The paper's program (`--importance oamip`).

    Example:
        ```python
        exact = onnxprune.OamipConfig(form="joint", images="per-class", time_limit=60.0)
        config = onnxprune.PruneConfig(importance="oamip", oamip=exact)
        ```
    """

    lambda_: float = option(5.0, "Weight of the task loss against sparsity.")
    epsilon: float = option(1e-5, "Half-width of the input box that bounds are propagated from.", minimum=0)
    form: str = option(
        "auto",
        "The program: joint (all gates of all images), affine (logits linear in the scores, at any depth), decoupled "
        "(modules with heads), or auto: joint where it is small, else affine.",
        choices=("auto", "joint", "affine", "decoupled"),
    )
    images: str = option(
        "auto",
        "Images in the program: N (balanced by class), random:N, per-class, or all [default: 10; affine: 200].",
    )
    rows: str = option(
        "lazy",
        "Rows of gates in the affine form: lazy adds those that a solution breaks, where no gate is open; or none.",
        choices=("lazy", "none"),
    )
    gates: str = option("relaxed", "ReLU gates.", choices=("relaxed", "integer"))
    bounds: str = option("eps", "Bounds of the pre-activations.", choices=("eps", "valid"))
    tighten: bool = option(False, "Tighten bounds by linear programs (small networks, valid bounds).")
    decoupled: bool = option(False, "The same as --oamip-form decoupled.")
    cut: int = option(1, "Scored layers a module, in the decoupled form.", minimum=1)
    order: str = option("joint", "One program, or one a layer from last to first.", choices=("joint", "last-first"))
    sparsity: str = option(
        "channels",
        "What a convolution's channel counts for in the sparsity term: one neuron, or one a place of its kernel.",
        choices=("channels", "kernels"),
    )
    linear: str = option(
        "positive",
        "What a score of 0 takes from a layer without ReLU: its upper bound where positive, or raw, of either sign.",
        choices=("positive", "raw"),
    )
    box: str = option(
        "free",
        "The input box as it is, or clamped to the least and largest value of each input's calibration rows.",
        choices=("free", "clamped"),
    )
    normalisation: str = option(
        "after",
        "Score what goes into a BatchNormalization after it and its activation, or before it.",
        choices=("after", "before"),
    )
    time_limit: float | None = option(None, "Seconds the solver may take for one program.", minimum=0)


@described
@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """How weights are trained, by `finetune` and by `prune --distill` (needs torch).

    Example:
        ```python
        config = onnxprune.FinetuneConfig(epochs=1, lr=3e-4, batch=32)
        onnxprune.finetune("smaller.onnx", "rows.npz", teacher="model.onnx", config=config)
        ```
    """

    epochs: int = option(10, "Passes over the training rows.", minimum=1)
    lr: float = option(1e-3, "Learning rate after warm-up; it falls to 0 along a cosine.", minimum=0)
    warmup: float = option(0.1, "Share of all steps in which the learning rate rises linearly.", minimum=0)
    batch: int = option(64, "Rows per step.", minimum=1)
    weight_decay: float = option(0.0, "Decoupled weight decay of weights of two or more axes.", minimum=0)
    temperature: float = option(1.0, "Temperature of the softmax outputs in distillation.", minimum=0)
    label_weight: float = option(0.0, "Share of the labels' loss beside a teacher (0 to 1).", minimum=0)
    flip: bool = option(False, "Mirror half of the images, left to right.")
    shift: int = option(0, "Shift images by up to this many pixels.", minimum=0)
    mixup: float | None = option(
        None,
        "Mix pairs of rows with weights from Beta(a, a); 0 mixes none [default: 1 with a teacher, else 0].",
        minimum=0,
    )
    holdout: float = option(0.1, "Share of the rows held out to choose the best epoch.", minimum=0)
    patience: int = option(0, "Stop after this many epochs without a better one; 0 never stops early.", minimum=0)
    seed: int = option(0, "Seed of the order of rows, of held-out rows and of augmentation.", minimum=0, shared="seed")
    threads: int = option(0, "Threads for torch; 0 takes all cores.", minimum=0, maximum=MOST_THREADS, shared="threads")


@described
@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """How time is measured: of results beside their originals, and for budgets on latency.

    Example:
        ```python
        config = onnxprune.LatencyConfig(batch=8, threads=2)
        onnxprune.validate("model.onnx", "smaller.onnx", "rows.npz", latency=config)
        ```
    """

    batch: int = option(
        1,
        "Rows a run where time is measured; a fixed batch, or that of --shape, holds.",
        minimum=1,
        flag="--latency-batch",
    )
    threads: int = option(
        1,
        "Threads of onnxruntime where time is measured; 0 takes all cores.",
        minimum=0,
        maximum=MOST_THREADS,
        flag="--latency-threads",
    )
    cache: str | None = option(
        None,
        "Folder of the measured kernel times, or off [default: onnxprune in the user's cache folder].",
        metavar="DIR|off",
    )


@described
@dataclass(frozen=True, slots=True)
class SweepConfig:
    """The budgets of a sweep.

    Example:
        ```python
        points = onnxprune.SweepConfig(target="params", points=2, highest=0.8, lowest=0.5, latency=False)
        swept = onnxprune.sweep("model.onnx", "rows.npz", points=points)
        ```
    """

    target: str = option("macs", "What the budgets are on.", choices=Target.KINDS)
    points: int = option(8, "Number of budgets, at even steps.", minimum=1)
    highest: float = option(0.9, "The largest budget, as a share of the original.", minimum=0)
    lowest: float = option(0.2, "The smallest budget.", minimum=0)
    latency: bool = option(True, "Measure the time of every point in onnxruntime.", name="time")


@described
@dataclass(frozen=True, slots=True)
class OutputConfig:
    """What the model's outputs hold, and which metric judges them.

    Example:
        ```python
        def right(original, candidate, labels):
            return {"right": float((candidate["y"].argmax(1) == labels).mean())}


        outputs = onnxprune.OutputConfig(kinds=("y=classes",), metric=right)
        found = onnxprune.validate("model.onnx", "smaller.onnx", "test.npz", outputs=outputs)
        print(found.metrics["right"].after)
        ```
    """

    kinds: tuple[str, ...] = option(
        (),
        "What an output means where its graph does not tell: classes, probabilities, quantities, embedding or ignored. "
        "The name may be a pattern, as of --keep.",
        metavar="NAME=KIND",
        flag="--output",
    )
    weights: tuple[str, ...] = option(
        (), "Weight of an output; those without one have weight 1.", metavar="NAME=WEIGHT", flag="--output-weight"
    )
    metric: str | Callable[..., Any] | None = option(
        None,
        "A measure of your own, as module:function: it gets the outputs of the original and of the candidate (dicts of "
        "arrays) and the labels or None, and returns figures by name; the first rules --max-drop.",
        metavar="MODULE:FUNCTION",
        flag="--metric",
    )


SHAPES_HELP = (
    "Sizes of an input that the file leaves open, batch first, for example images=1,3,640,640; may be given several "
    "times. Without it sizes are those of the data, else guessed."
)
KEEP_HELP = (
    "Never prune these groups: a name of a group or of a node that puts out its channels, as inspect prints it, else "
    "a shell pattern (/layer1/*), or re:EXPRESSION; may be given several times. inspect --keep lists the matches."
)
PROVIDER_FORM = "NAME[:OPTIONS]"
PROVIDER_HELP = (
    "Execution provider that onnxruntime runs models on, one of those that the installed onnxruntime has, in short "
    "(cuda) or in full, with its options (cuda:device_id=1); what it cannot run, the CPU does."
)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What onnxruntime runs models on."""

    provider: str = option("cpu", PROVIDER_HELP, metavar=PROVIDER_FORM, form=Provider.parse)


@dataclass(frozen=True, slots=True)
class SizesConfig:
    """Sizes of inputs."""

    shapes: tuple[str, ...] = option((), SHAPES_HELP, metavar="NAME=SIZES", name="shape")


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """What is never pruned."""

    keep: tuple[str, ...] = option((), KEEP_HELP, metavar="PATTERN")


@described
@dataclass(frozen=True, slots=True)
class PruneConfig:
    """All options of `prune`, except for the files it reads and writes.

    Example:
        ```python
        targets = (onnxprune.Target.parse("macs=50%"), onnxprune.Target("params", 0.8))
        config = onnxprune.PruneConfig(targets=targets, importance="magnitude", repair=False)
        result = onnxprune.prune("model.onnx", "rows.npz", config=config)
        ```
    """

    targets: tuple[Target, ...] = option(
        (),
        "Budget, for example macs=50%, bytes=2MB or macs:/layer1/*=0.5; may be given several times.",
        metavar="KIND=VALUE",
        name="target",
    )
    max_drop: float | None = option(
        None, "Smallest model (--minimise) whose metric on --eval falls by at most P points.", metavar="P", minimum=0
    )
    minimise: str = option(
        "macs",
        "With --max-drop: what is made as small as the floor allows; time finds the fastest model.",
        choices=("time", *COUNTED),
    )
    allow_overlap: bool = option(False, "With --max-drop: let calibration rows be among those of --eval.")
    importance: str = option("reconstruction", "How units are scored.", registry="scorers")
    threshold: str | None = option(
        None,
        "Remove units whose score is below this (0 to 1), or below their layer's mean with 'mean'.",
        metavar="T|mean",
    )
    round_to: int | str = option(
        "kernel",
        "Keep channel counts at widths that kernels are fast at, by a rule for --kernels; measured: at those that are "
        "fast on this machine; N: at multiples of N (1: any).",
        minimum=1,
        metavar="kernel|measured|N",
        words=("kernel", "measured", "auto"),
    )
    kernels: str = option(
        "auto",
        "What the result will run on: the rule of --round-to kernel; auto: cuda or tensorrt for that --provider, else "
        "cpu.",
        choices=("auto", *KERNELS),
    )
    lossless: bool = option(
        False, "Remove only what leaves the outputs as they are for every input: constant units and copies of others."
    )
    branches: bool = option(True, "Let whole branches go: residual blocks, attention, gates, parts of a Concat.")
    keep: tuple[str, ...] = option((), KEEP_HELP, metavar="PATTERN")
    repair: bool = option(True, "Refit the remaining weights to the original's activations.")
    distill: int = option(
        0,
        "Epochs of training towards the original's outputs, without labels (needs torch).",
        metavar="EPOCHS",
        minimum=0,
    )
    flip: bool = option(False, "With --distill: mirror half of the images, left to right.")
    shift: int = option(0, "With --distill: shift images by up to this many pixels.", minimum=0)
    time: bool = option(True, "Measure the result's time beside the original's in onnxruntime.")
    fail_if_slower: bool = option(
        False, "Fail with exit code 7, and write nothing, where the result takes over 97 % of the original's time."
    )
    strict: bool = option(False, "Fail where the graph has parts that onnxprune does not understand.")
    shapes: tuple[str, ...] = option((), SHAPES_HELP, metavar="NAME=SIZES", name="shape")
    images: int | None = option(
        None, "Calibration rows used at most (1000 by default; 64 random, 200 synthetic).", minimum=1
    )
    seed: int = option(0, "Seed of everything random.", minimum=0)
    threads: int = option(
        0, "Threads for onnxruntime and the programs; 0 takes all cores.", minimum=0, maximum=MOST_THREADS
    )
    provider: str = option("cpu", PROVIDER_HELP, metavar=PROVIDER_FORM, form=Provider.parse)
    executor: str = option(
        "auto",
        "Where independent tasks run: serial (this process), processes, dask://HOST:PORT (a scheduler), or auto: local "
        "processes for large work.",
        metavar="WHERE",
    )
    workers: int = option(0, "Local worker processes; 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    memory: str | None = option(
        None,
        "Bound on the peak memory of the process, for example 1GB: what exceeds it waits on disk. Same result. Without "
        "one, tensors beyond 1 GiB a run wait there.",
        metavar="SIZE",
        size=True,
    )
    cache: str | None = option(
        None,
        "Keep statistics, scores and refitted layers in this folder: an interrupted run goes on where it stopped.",
        metavar="DIR",
    )
    outputs: OutputConfig = dataclasses.field(default_factory=OutputConfig)
    latency: LatencyConfig = dataclasses.field(default_factory=LatencyConfig)
    oamip: OamipConfig = dataclasses.field(default_factory=OamipConfig)

    @property
    def is_searched(self) -> bool:
        """Whether the smallest model within the floor is searched for: no budget and no threshold says how small."""
        return self.max_drop is not None and not self.targets and self.threshold is None

    @property
    def is_timed(self) -> bool:
        """Whether a budget is on time: one of the targets, or what the search within a floor makes small."""
        measured = any(COST_KINDS[target.kind].measured for target in self.targets)
        return measured or (self.is_searched and self.minimise == "time")

    @property
    def run(self) -> RunOptions:
        """The options for running models and tasks."""
        return RunOptions(self.seed, self.threads, self.room, self.cache, Provider.parse(self.provider))

    @property
    def engine(self) -> Engine:
        """How onnxruntime runs models: for calibration, checks and figures."""
        return self.run.engine

    @property
    def timing_engine(self) -> Engine:
        """How onnxruntime runs models whose time is measured."""
        return Engine(self.latency.threads, self.run.provider)

    @property
    def kernel_rule(self) -> str:
        """Whose kernels `--round-to kernel` asks: the user's choice, else the provider's where it has a rule."""
        name = self.run.provider.name if self.kernels == "auto" else self.kernels
        return name if name in KERNELS else "cpu"

    @property
    def room(self) -> float:
        """Bytes of activations that one run may hold in memory; two runs may be active at once."""
        return ROOM if self.memory is None else parse_size(self.memory) // 16
