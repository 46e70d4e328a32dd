"""A small residual network: a stream of 8 channels, 12 inside its one block, and a classifier."""

NETWORK = """g (float[N,3,8,8] x) => (float[N,5] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    a = Relu (s)
    h = Conv <pads = [1, 1, 1, 1]> (a, w1)
    r = Relu (h)
    k = Conv <pads = [1, 1, 1, 1]> (r, w2)
    t = Add (k, a)
    f = Flatten (t)
    y = Gemm (f, w3, b3) }"""
WEIGHTS = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (12, 8, 3, 3), "w2": (8, 12, 3, 3), "w3": (512, 5), "b3": (5,)}
