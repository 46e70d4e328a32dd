"""Files that onnxruntime's own optimisers and quantisers write: accepted, counted, and pruned if possible."""

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import analysed, check_removal, random_removal

from onnxprune import prune
from onnxprune.core.errors import ModelError
from onnxprune.ops.examples import example
from onnxprune.runtime.library import onnxruntime

torch = pytest.importorskip("torch")
SIZES = dict.fromkeys(("ids", "mask", "kinds"), (1, 6))


class Layer(torch.nn.Module):
    """One layer of BERT, as its authors spell it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        linear = torch.nn.Linear
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.up, self.down = linear(width, 2 * width), linear(2 * width, width)
        self.first, self.second = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)

    def forward(self, x, mask):
        heads = [part(x).view(*x.shape[:2], 4, 8).permute(0, 2, 1, 3) for part in (self.q, self.k, self.v)]
        scores = heads[0] @ heads[1].transpose(-1, -2) / 8**0.5 + mask
        mixed = (scores.softmax(-1) @ heads[2]).permute(0, 2, 1, 3).contiguous().view(x.shape)
        x = self.first(self.o(mixed) + x)
        return self.second(self.down(torch.nn.functional.gelu(self.up(x))) + x)


class Bert(torch.nn.Module):
    """Two layers on embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (torch.nn.Embedding(count, 32) for count in (40, 16, 6))
        self.norm, self.layers = torch.nn.LayerNorm(32), torch.nn.ModuleList([Layer(), Layer()])
        self.last = torch.nn.Linear(32, 5)
        self.register_buffer("order", torch.arange(16)[None])

    def forward(self, ids, mask, kinds):
        hidden = (1 - mask[:, None, None, :].float()) * -10000.0
        x = self.norm(self.words(ids) + self.kinds(kinds) + self.places(self.order[:, : ids.shape[1]]))
        for layer in self.layers:
            x = layer(x, hidden)
        return self.last(x[:, 0])


class Images(torch.nn.Module):
    """A convolution, a residual block with a depthwise one, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.first, self.wide, self.narrow = conv(3, 8, 3, padding=1), conv(8, 16, 1), conv(16, 8, 1)
        self.norm, self.deep = torch.nn.BatchNorm2d(16), conv(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite, self.last = conv(8, 4, 1), conv(4, 8, 1), torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).relu()
        x = (x + self.narrow(torch.nn.functional.hardswish(self.deep(self.norm(self.wide(x)).relu())))).relu()
        gate = torch.sigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()))
        return self.last((x * gate).mean((2, 3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimised")
    torch.manual_seed(0)
    ort = onnxruntime()
    numbers = torch.zeros(2, 6, dtype=torch.int64)
    for name, network, rows in (
        ("bert", Bert(), dict(zip(SIZES, (numbers, numbers + 1, numbers), strict=True))),
        ("images", Images(), {"x": torch.zeros(2, 3, 8, 8)}),
    ):
        data, axes = io.BytesIO(), {n: {0: "N"} if n in ("x", "y") else {0: "N", 1: "T"} for n in (*rows, "y")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), tuple(rows.values()), data, dynamo=False, input_names=[*rows], output_names=["y"],
                opset_version=17, dynamic_axes=axes,
            )  # fmt: skip
        (folder / f"{name}.onnx").write_bytes(data.getvalue())
        for level in ("BASIC", "EXTENDED", "ALL"):
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
            options.optimized_model_filepath = str(folder / f"{name}_{level}.onnx")
            ort.InferenceSession(data.getvalue(), options, providers=["CPUExecutionProvider"])
    return folder


def check(path: Path) -> list[int]:
    analysis = analysed(path, SIZES if "bert" in path.name else None)
    for seed, share in enumerate((0.3, 0.6)):
        check_removal(analysis, random_removal(analysis, share, np.random.default_rng(seed)), seed, batch=1 + seed)
    return sorted(len(group) for group in analysis.groups)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_bert_saved_by_a_session(files: Path, level: str) -> None:
    assert check(files / f"bert_{level}.onnx") == check(files / "bert.onnx") == [4, 4, 64, 64]
    costs = [analysed(files / name, SIZES).costs().macs for name in ("bert.onnx", f"bert_{level}.onnx")]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_images_saved_by_a_session(files: Path, level: str) -> None:
    assert check(files / f"images_{level}.onnx") == check(files / "images.onnx") == [4, 8, 16]


def test_a_layout_for_one_processor_says_so(files: Path) -> None:
    path = files / "images_ALL.onnx"
    if not any(node.domain == "com.microsoft.nchwc" for node in onnx.load(path).graph.node):
        pytest.skip("onnxruntime keeps the usual layout on this processor")
    assert any("laid out for one processor" in item.reason for item in analysed(path).not_pruned)


@pytest.mark.parametrize("separate", [False, True])
def test_bert_of_the_transformers_optimizer(files: Path, separate: bool) -> None:
    onnxruntime()
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    options.use_multi_head_attention = separate
    made = optimizer.optimize_model(
        str(files / "bert.onnx"), "bert", num_heads=4, hidden_size=32, optimization_options=options
    )
    path = files / f"bert_optimizer_{separate}.onnx"
    made.save_model_to_file(str(path))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "EmbedLayerNormalization" in operators
    assert ("MultiHeadAttention" if separate else "Attention") in operators
    assert check(path) == [4, 4, 64, 64]


def test_integer_weights_are_named_and_nothing_is_written(files: Path) -> None:
    onnxruntime()
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = files / "bert_integers.onnx"
    quantization.quantize_dynamic(files / "bert.onnx", path)
    reasons = {item.reason for item in analysed(path, SIZES).not_pruned}
    assert any("computes with integer weights" in reason for reason in reasons)
    with pytest.raises(ModelError, match=r"nothing can be pruned: .*integer weights"):
        prune(path, targets="macs=0.8", importance="magnitude", repair=False)


def test_an_lstm_of_integers_is_counted_and_named(files: Path) -> None:
    """It was an operator that nobody knows: not counted, and said to be unsupported."""
    onnxruntime()
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = files / "lstm.onnx"
    text = """g (float[7,N,6] x) => (float[7,1,N,5] y) {
        a = MatMul (x, w1)
        y = LSTM <hidden_size = 5> (a, w, r, b) }"""
    onnx.save(example(text, {"w1": (6, 8), "w": (1, 20, 8), "r": (1, 20, 5), "b": (1, 40)}), path)
    quantization.quantize_dynamic(path, files / "integers.onnx")
    a = analysed(files / "integers.onnx")
    assert (a.costs().macs, a.incomplete) == (analysed(path).costs().macs, ())
    reason = "DynamicQuantizeLSTM computes with integer weights; prune the model before it is quantised"
    assert reason in {item.reason for item in a.not_pruned}
