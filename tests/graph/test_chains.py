"""Orders of nodes."""

import onnx
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.load import load
from onnxprune.graph.nodes import Node, read_graph
from onnxprune.graph.order import asked_late, in_chains


@st.composite
def graphs(draw) -> tuple[Node, ...]:
    """Nodes that each read one or two of the tensors before them."""
    count = draw(st.integers(1, 12))
    text = "g (float[2] t0) => (" + ", ".join(f"float[2] t{n}" for n in range(1, count + 1)) + ") {"
    for n in range(1, count + 1):
        reads = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=2))
        text += f" t{n} = {'Relu' if len(reads) == 1 else 'Add'} (" + ", ".join(f"t{r}" for r in reads) + ")"
    model = onnx.helper.make_model(onnx.parser.parse_graph(text + " }"))
    return read_graph(load(model)).nodes


@given(graphs())
def test_chains_are_an_order_of_execution(nodes) -> None:
    made = {"t0"}
    for node in in_chains(nodes):
        assert made.issuperset(node.reads)
        made.update(node.outputs)
    assert len(made) == len(nodes) + 1


def test_branches_do_not_mix_and_the_longest_comes_last() -> None:
    text = """g (float[2] x) => (float[2] y) {
        a = Relu (x) p = Neg (x) b = Relu (a) q = Neg (p) c = Relu (b) y = Add (c, q) }"""
    nodes = read_graph(load(onnx.helper.make_model(onnx.parser.parse_graph(text)))).nodes
    assert [node.output() for node in in_chains(nodes)] == ["p", "q", "a", "b", "c", "y"]


@given(graphs(), st.data())
def test_what_is_asked_for_after_something_made_later_is_asked_late(nodes, data) -> None:
    tensors = [node.output() for node in nodes]
    visits = data.draw(st.lists(st.lists(st.sampled_from(tensors), min_size=1, max_size=2), max_size=6))
    late = asked_late(nodes, visits)
    place = {name: index for index, name in enumerate(tensors)}
    for number, names in enumerate(visits):
        before = [place[name] for visit in visits[:number] for name in visit]
        for name in names:
            if any(other > place[name] for other in before):
                assert name in late
    asked = [name for names in visits for name in names]
    in_order = [place[name] for name in asked] == sorted(place[name] for name in asked)
    assert not (in_order and late)
