"""The network as it was before its activations were quantised: what outputs mean does not depend on rounding."""

from dataclasses import replace

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis


def unrounded(analysis: Analysis) -> Analysis:
    """The analysis with activations that are quantised and decoded again passed on as they are.

    Shapes, labels and constants stay; the tensors of codes have no reader that counts any more.

    Args:
        analysis: of the model, which is not changed.
    """
    passed: list[Node] = []
    for node in analysis.graph.nodes:
        maker = analysis.graph.producer.get(node.input(0))
        undoes = maker is not None and handler_of(node.op_type).undoes(node, maker)
        if maker is not None and undoes and analysis.value(node.output()) is None:
            passed.append(replace(node, op_type="Identity", inputs=(maker.input(0),), attributes={}))
    if not passed:
        return analysis
    proto = onnx.ModelProto()
    proto.CopyFrom(analysis.model.proto)
    for node in passed:
        written = onnx.helper.make_node("Identity", node.inputs, node.outputs, name=node.name)
        proto.graph.node[node.index].CopyFrom(written)
    by_name = {node.name: node for node in passed}
    nodes = tuple(by_name.get(node.name, node) for node in analysis.graph.nodes)
    producer = {name: by_name.get(node.name, node) for name, node in analysis.graph.producer.items()}
    graph = replace(analysis.graph, nodes=nodes, producer=producer)
    return replace(analysis, model=replace(analysis.model, proto=proto), graph=graph)
