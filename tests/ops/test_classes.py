"""Channels that are tied together have one number: that of scipy's connected components."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.ops.labels import classes

SIZES = st.integers(1, 60).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=2 * count),
        st.lists(st.integers(0, count - 1), max_size=3),
    )
)


@given(SIZES)
def test_classes_are_connected_components(drawn: tuple[int, list[tuple[int, int]], list[int]]) -> None:
    count, ties, fixed = drawn
    found = classes(count, [(np.array([a]), np.array([b])) for a, b in ties], [np.array(fixed, np.int64)])
    edges = np.array([*ties, *((0, node) for node in fixed), (0, 0)]).T
    _, wanted = connected_components(coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(count, count)), False)
    assert found.tolist() == wanted.tolist()


def test_long_chains_and_stars_take_few_rounds() -> None:
    numbers = np.random.default_rng(0).permutation(200_000)
    assert not classes(200_001, [(numbers[1:], numbers[:-1])], [numbers[:1]])[:200_000].any()
    star = np.full(199_999, numbers[0])
    assert not classes(200_000, [(star, numbers[1:])], [star[:1]]).any()
