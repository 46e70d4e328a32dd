"""Small models of the kinds that the guides are about, with inputs for them."""

from pathlib import Path

import numpy as np
import onnx

from onnxprune.ops.examples import example

RNG = np.random.default_rng(0)


def network(*, half: bool = False, wide: int = 16) -> onnx.ModelProto:
    kind = "float16" if half else "float"
    proto = example(
        f"""g ({kind}[N,3,8,8] x) => ({kind}[N,4] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        d = Relu (c)
        p = GlobalAveragePool (d)
        f = Flatten (p)
        h = Gemm <transB = 1> (f, w3)
        r = Relu (h)
        y = Gemm <transB = 1> (r, w4) }}""",
        {} if half else {"w1": (wide, 3, 3, 3), "w2": (wide, wide, 3, 3), "w3": (wide, wide), "w4": (4, wide)},
        {
            name: (RNG.standard_normal(shape) / 4).astype(np.float16)
            for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16), "w4": (4, 16)}.items()
        }
        if half
        else {},
    )
    for node, name in {0: "/stem/Conv", 2: "/layer1/Conv", 6: "/head/hidden", 8: "/head/out"}.items():
        proto.graph.node[node].name = name
    return proto


def detector() -> onnx.ModelProto:
    """Boxes and scores of 64 positions in one output."""
    return example(
        """g (float[N,3,8,8] images) => (float[N,6,64] y) {
        a = Conv <pads = [1, 1, 1, 1]> (images, w1)
        b = Relu (a)
        boxes = Conv (b, w2)
        logits = Conv (b, w3)
        scores = Sigmoid (logits)
        both = Concat <axis = 1> (boxes, scores)
        y = Reshape (both, shape) }""",
        {"w1": (16, 3, 3, 3), "w2": (4, 16, 1, 1), "w3": (2, 16, 1, 1)},
        {"shape": np.array([0, 6, 64])},
    )


def three_levels() -> onnx.ModelProto:
    """A detector with an output for each of three sizes of map."""
    levels, outputs, weights = [], [], {"w0": (16, 3, 3, 3)}
    source = "a0"
    for level in (1, 2, 3):
        levels.append(f"c{level} = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> ({source}, w{level})")
        levels.append(f"a{level} = Relu (c{level})  head{level} = Conv (a{level}, h{level})")
        levels.append(f"y{level} = Sigmoid (head{level})")
        outputs.append(f"float[N,21,{16 >> level},{16 >> level}] y{level}")
        weights |= {f"w{level}": (16, 16, 3, 3), f"h{level}": (21, 16, 1, 1)}
        source = f"a{level}"
    text = f"""g (float[N,3,16,16] images) => ({", ".join(outputs)}) {{
        c0 = Conv <pads = [1, 1, 1, 1]> (images, w0)  a0 = Relu (c0)
        {" ".join(levels)} }}"""
    return example(text, weights)


def segmenter() -> onnx.ModelProto:
    """Down, up again, and a mask."""
    return example(
        """g (float[N,3,16,16] images) => (float[N,1,16,16] mask) {
        a = Conv <pads = [1, 1, 1, 1]> (images, w1)  b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2)  d = Relu (c)
        u = ConvTranspose <strides = [2, 2]> (d, w3)
        j = Concat <axis = 1> (u, b)  k = Conv <pads = [1, 1, 1, 1]> (j, w4)  r = Relu (k)
        z = Conv (r, w5)  mask = Sigmoid (z) }""",
        {"w1": (8, 3, 3, 3), "w2": (16, 8, 3, 3), "w3": (16, 8, 2, 2), "w4": (16, 16, 3, 3), "w5": (1, 16, 1, 1)},
    )


def _block(source: str, mask: str = "") -> str:
    """One transformer layer of two heads from `source` to `t`; `mask` is added to what attention compares."""
    masked = f"seen = Add (scaled, {mask})" if mask else "seen = Identity (scaled)"
    return f"""
        q0 = MatMul ({source}, wq)  k0 = MatMul ({source}, wk)  v0 = MatMul ({source}, wv)
        q1 = Reshape (q0, heads)  k1 = Reshape (k0, heads)  v1 = Reshape (v0, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q1)  k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1)
        compared = MatMul (q, k)  scaled = Mul (compared, scale)  {masked}
        p = Softmax <axis = -1> (seen)  o0 = MatMul (p, v)  o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
        o2 = Reshape (o1, joined)  o = MatMul (o2, wo)  added = Add ({source}, o)
        n = LayerNormalization (added, ones, zeros)
        f0 = MatMul (n, wf)  f1 = Add (f0, bf)  f2 = Relu (f1)  f = MatMul (f2, wg)  t0 = Add (n, f)
        t = LayerNormalization (t0, ones, zeros)"""


_BLOCK_WEIGHTS = {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16), "wf": (16, 32), "bf": (32,),
                  "wg": (32, 16)}  # fmt: skip
_BLOCK_CONSTANTS = {
    "heads": np.array([0, 0, 2, 8]),
    "joined": np.array([0, 0, 16]),
    "scale": np.float32(8**-0.5),
    "ones": np.ones(16, np.float32),
    "zeros": np.zeros(16, np.float32),
}


def encoder() -> onnx.ModelProto:
    """Tokens to one vector: the mean over those that the mask names, of length 1."""
    text = f"""g (int64[N,S] ids, int64[N,S] mask) => (float[N,16] vector) {{
        m0 = Cast <to = 1> (mask)  m1 = Unsqueeze (m0, between)  m2 = Sub (one, m1)  far = Mul (m2, least)
        e = Gather (table, ids)
        {_block("e", "far")}
        m = Unsqueeze (m0, last)  real = Mul (t, m)  sums = ReduceSum <keepdims = 0> (real, middle)
        vector = LpNormalization <axis = 1> (sums) }}"""
    constants = {"between": np.array([1, 2]), "last": np.array([2]), "middle": np.array([1]), "one": np.float32(1),
                 "least": np.float32(-1e4)}  # fmt: skip
    return example(text, {"table": (50, 16), **_BLOCK_WEIGHTS}, {**_BLOCK_CONSTANTS, **constants})


def vision_transformer() -> onnx.ModelProto:
    """Patches of an image through one layer, to class scores."""
    text = f"""g (float[N,3,16,16] images) => (float[N,5] scores) {{
        c = Conv <kernel_shape = [4, 4], strides = [4, 4]> (images, w0)
        flat = Reshape (c, sixteen)  s = Transpose <perm = [0, 2, 1]> (flat)  x = Add (s, places)
        {_block("x")}
        mean = ReduceMean <axes = [1], keepdims = 0> (t)  scores = MatMul (mean, w9) }}"""
    weights = {"w0": (16, 3, 4, 4), "places": (16, 16), "w9": (16, 5), **_BLOCK_WEIGHTS}
    return example(text, weights, {**_BLOCK_CONSTANTS, "sixteen": np.array([0, 16, 16])})


def reader() -> onnx.ModelProto:
    """Text recognition: columns of an image through an LSTM in both directions, characters with time first."""
    return example(
        """g (float[N,1,8,24] images) => (float[12,N,7] characters) {
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (images, w1)  b = Relu (a)
        c = Conv <kernel_shape = [4, 1]> (b, w2)  d = Relu (c)
        q = Squeeze (d, two)  t = Transpose <perm = [2, 0, 1]> (q)
        s, last = LSTM <hidden_size = 8, direction = "bidirectional"> (t, w, r)
        u = Transpose <perm = [0, 2, 1, 3]> (s)  j = Reshape (u, both)
        z = MatMul (j, w3)  characters = Softmax <axis = 2> (z) }""",
        {"w1": (8, 1, 3, 3), "w2": (12, 8, 4, 1), "w": (2, 32, 12), "r": (2, 32, 8), "w3": (16, 7)},
        {"two": np.array([2]), "both": np.array([0, 0, 16])},
    )


def listener() -> onnx.ModelProto:
    """Frames of sound, by convolutions over time, to a vector a clip."""
    return example(
        """g (float[N,16,40] frames) => (float[N,48] voice) {
        a = Conv <pads = [1, 1]> (frames, w1)  b = Relu (a)
        c = Conv <pads = [1, 1], strides = [2]> (b, w2)  d = Relu (c)
        m = ReduceMean <axes = [2], keepdims = 0> (d)  voice = MatMul (m, w3) }""",
        {"w1": (24, 16, 3), "w2": (24, 24, 3), "w3": (24, 48)},
    )


def tower() -> onnx.ModelProto:
    """An image to a vector, with a second output that is only looked at."""
    return example(
        """g (float[N,3,8,8] x) => (float[N,32] features, float[N,16] debug) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)  d = Relu (c)  p = GlobalAveragePool (d)
        debug = Flatten (p)  features = MatMul (debug, w3) }""",
        {"w1": (24, 3, 3, 3), "w2": (16, 24, 3, 3), "w3": (16, 32)},
    )


def decider() -> onnx.ModelProto:
    """An image to the logit of yes."""
    return example(
        """g (float[N,3,8,8] x) => (float[N,1] score) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)  d = Relu (c)  p = GlobalAveragePool (d)
        f = Flatten (p)  score = MatMul (f, w3) }""",
        {"w1": (24, 3, 3, 3), "w2": (16, 24, 3, 3), "w3": (16, 1)},
    )


def tagger() -> onnx.ModelProto:
    return example(
        """g (float[N,6,4] x) => (float[N,6,3] y) {
        t = Transpose <perm = [1, 0, 2]> (x)
        s, last = LSTM <hidden_size = 8> (t, w, r)
        q = Squeeze (s, one)
        b = Transpose <perm = [1, 0, 2]> (q)
        y = MatMul (b, w2) }""",
        {"w": (1, 32, 4), "r": (1, 32, 8), "w2": (8, 3)},
        {"one": np.array([1])},
    )


def write_all(folder: Path) -> None:
    """Write the files that the guides take for given."""
    for name in ("model", "other", "OUT"):
        onnx.save(network(), folder / f"{name}.onnx")
    onnx.save(network(half=True), folder / "half.onnx")
    onnx.save(network(wide=24), folder / "large.onnx", save_as_external_data=True, size_threshold=0)
    models = {"detector": detector, "levels": three_levels, "segmenter": segmenter, "encoder": encoder,
              "vit": vision_transformer, "ocr": reader, "voice": listener, "tower": tower,
              "tagger": tagger, "decider": decider}  # fmt: skip
    for name, make in models.items():
        onnx.save(make(), folder / f"{name}.onnx")
    onnx.save(detector(), folder / "small_detector.onnx")
    images = RNG.standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.save(folder / "inputs.npy", images)
    np.savez(folder / "labelled.npz", x=images, y=np.arange(64) % 4)
    np.savez(folder / "answers.npz", x=images, y=np.arange(64) % 2)
    np.savez(folder / "rows.npz", x=images)
    np.savez(folder / "images.npz", images=images)
    np.savez(folder / "photos.npz", images=RNG.standard_normal((64, 3, 16, 16)).astype(np.float32))
    np.savez(folder / "lines.npz", images=RNG.standard_normal((64, 1, 8, 24)).astype(np.float32))
    np.savez(folder / "clips.npz", frames=RNG.standard_normal((64, 16, 40)).astype(np.float32))
    lengths = RNG.integers(8, 33, (64, 1))
    mask = (np.arange(32) < lengths).astype(np.int64)
    np.savez(folder / "tokens.npz", ids=RNG.integers(1, 50, mask.shape) * mask, mask=mask)
    np.savez(folder / "sequences.npz", x=RNG.standard_normal((64, 6, 4)).astype(np.float32))
