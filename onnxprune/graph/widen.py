"""Weights that a file holds in half precision and widens before they are used, as plain constants of the wide type.

Converters of small models store weights so (float16 quantisation of TFLite). For the analysis and the repair such a
weight is a constant like any other; files and sessions get it narrow again, behind the node that widens it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import onnx

from onnxprune.graph.edit import placeholder, without_dead
from onnxprune.graph.model import Model, Narrow, constant_nodes, constant_type
from onnxprune.graph.nodes import is_float, qualified, read_in_bodies


def widened(model: Model, converts: Callable[[str], bool]) -> Model:
    """The model with constants in place of nodes that alone read a stored one and give it a wider type.

    Args:
        model: the model.
        converts: whether an operator, by name, only gives its input another element type.
    """
    graph = model.proto.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node, _ in constant_nodes(graph):
        types[node.output[0]] = constant_type(node, model.constants[node.output[0]])
    readers = Counter(name for node in graph.node for name in node.input)
    # Those among the inputs, as of old files, may be given other values.
    fixed = {value.name for value in (*graph.input, *graph.output)} | {*read_in_bodies(graph)}
    constants, narrow, wider = dict(model.constants), dict[str, Narrow](), list[onnx.TensorProto]()
    for node in graph.node:
        stored = node.input[0] if len(node.input) == 1 else ""
        if stored not in types or readers[stored] > 1 or not fixed.isdisjoint((stored, *node.output)):
            continue
        if not converts(qualified(node.op_type, node.domain)) or not is_float(model.constants[stored]):
            continue
        wide = onnx.helper.tensor_dtype_to_np_dtype(onnx.helper.get_node_attr_value(node, "to"))
        if wide.kind != "f" or wide.itemsize <= model.constants[stored].dtype.itemsize:
            continue
        made = node.output[0]
        constants[made] = model.constants[stored].astype(wide)
        narrow[made] = Narrow(stored, types[stored], node.SerializeToString())
        kind = onnx.helper.np_dtype_to_tensor_dtype(wide)
        wider.append(placeholder(onnx.TensorProto(name=made, data_type=kind)))
    if not narrow:
        return model
    gone = {*narrow} | {each.stored for each in narrow.values()}
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in gone)
    proto.graph.initializer.extend(wider)
    proto.graph.node.extend(node for node in graph.node if gone.isdisjoint(node.output))
    kept = {name: array for name, array in constants.items() if name in narrow or name not in gone}
    fresh = replace(
        model, proto=proto, constants=MappingProxyType(kept), narrow=MappingProxyType({**model.narrow, **narrow})
    )
    return without_dead(fresh, model.proto)
