"""An ONNX graph in float16, and in float32 where 16 bits are too few; types are in the graph.

onnxruntime's converter rounds to 16 bits between two nodes that stay in float32, too, and converts
a value that two of them take twice under one name; hence this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PRODUCTS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
# Sums over many positions or channels: in 16 bits squares overflow and small terms vanish.
IN_FLOAT32 = (
    'Softmax',
    'LayerNormalization',
    'InstanceNormalization',
    'GroupNormalization',
    'ReduceMean',
    'ReduceSum',
    'GlobalAveragePool',
    'AveragePool',
    'Cast',
)
FIRST_ONLY = ('Resize',)  # of whose inputs the others have a type of their own


def nodes_in_float32(graph: Any) -> set[Any]:
    """The nodes of a graph that compute in float32.

    These are `IN_FLOAT32`, and all before the first and after the last product: the normalisation
    of the image, and boxes and scores.

    Args:
        graph: of onnx_ir, in topological order.
    """
    nodes = list(graph)
    after: set[Any] = set()  # a product
    before: set[Any] = set()  # another
    for node in nodes:
        if node.op_type in PRODUCTS or not after.isdisjoint(node.predecessors()):
            after.add(node)
    for node in reversed(nodes):
        if node.op_type in PRODUCTS or not before.isdisjoint(node.successors()):
            before.add(node)
    between = after & before
    return {node for node in nodes if node not in between or node.op_type in IN_FLOAT32}


def halve(model: Any) -> None:
    """Compute in 16 bits what does not need 32, in place; inputs and outputs stay in float32.

    Args:
        model: of onnx_ir, in float32, of which the types of all values are known.
    """
    from onnx_ir import DataType, Value, node, tensor
    from onnx_ir.passes.common import (
        LiftConstantsToInitializersPass,
        RemoveUnusedNodesPass,
        TopologicalSortPass,
    )

    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    TopologicalSortPass()(model)
    graph = model.graph
    converted: dict[tuple[Value, DataType], Value] = {}

    def as_type(value: Value, dtype: DataType, place: Any) -> Value:
        """The value in another type, from a constant or a node that is added before `place`."""
        key = value, dtype
        if key in converted:
            return converted[key]
        if value.const_value is not None:
            name, numbers = f'{value.name}_{dtype.name}', value.const_value.numpy()
            with np.errstate(over='ignore'):  # infinity shows in the comparison with PyTorch
                made = Value(name=name, const_value=tensor(numbers.astype(dtype.numpy()), dtype))
            made.dtype, made.shape = dtype, value.shape
            graph.register_initializer(made)
        else:
            cast = node('Cast', [value], {'to': dtype}, name=f'{value.name}/{dtype.name}')
            (made,) = cast.outputs
            made.name, made.dtype, made.shape = f'{value.name}_{dtype.name}', dtype, value.shape
            if place is None:
                graph.append(cast)
            else:
                graph.insert_before(place, cast)
        converted[key] = made
        return made

    types = (DataType.FLOAT, DataType.FLOAT16)
    in_float32 = nodes_in_float32(graph)
    for each in list(graph):
        dtype = types[each not in in_float32]
        for i, value in enumerate(each.inputs[:1] if each.op_type in FIRST_ONLY else each.inputs):
            if value is not None and value.dtype in types and value.dtype != dtype:
                each.replace_input_with(i, as_type(value, dtype, each))
        for value in each.outputs:
            if value.dtype in types:
                value.dtype = dtype
    for i, value in enumerate(graph.outputs):
        if value.dtype == DataType.FLOAT16:
            made = as_type(value, DataType.FLOAT, None)
            made.name, value.name = value.name, f'{value.name}_FLOAT16'
            graph.outputs[i] = made
    RemoveUnusedNodesPass()(model)


def round_results(model: Any) -> None:
    """Keep the results of all nodes in 16 bits in onnxruntime without optimisations, in place.

    It has no such operators on a CPU, computes in float32, and does not round between two of them.
    A copy in 16 bits makes it round; of a single one it would make a copy in float32.

    Args:
        model: of onnx_ir, see `halve`.
    """
    from onnx_ir import DataType, Value, convenience, node

    def copied(value: Value, number: int) -> Any:
        copy = node('Identity', [value], name=f'{value.name}/copy{number}')
        copy.outputs[0].name = f'{value.name}_copy{number}'
        copy.outputs[0].dtype, copy.outputs[0].shape = DataType.FLOAT16, value.shape
        return copy

    for each in list(model.graph):
        for value in each.outputs:
            if value.dtype == DataType.FLOAT16:
                first = copied(value, 1)
                second = copied(first.outputs[0], 2)
                convenience.replace_all_uses_with(value, second.outputs[0])
                first.replace_input_with(0, value)
                model.graph.insert_after(each, [first, second])
