"""A model as an ONNX graph of plain operators: raw variables in, probabilities or predictions out.

All arithmetic is in doubles, so the results are the estimator's but for the last digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from wardround_common.design import MISSING, Design, Factor, Term
from wardround_common.dictionary import CategoryVariable, Dictionary, NumberVariable
from wardround_common.models import MOST_LOG_ODDS, LinearModel, Model, NetworkModel
from wardround_common.trees import ForestModel
from wardround_server.onnx_export.graph import Graph
from wardround_server.onnx_export.trees import tree_ensemble

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


def onnx_model(model: Model, dictionary: Dictionary, outcome: str, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of an ONNX file that computes what the estimator does.

    Its output is ``probability`` (rows, 2), of both levels of the outcome, or ``prediction`` (rows, 1).
    ``metadata`` is kept beside the outcome, its levels and the model's digest.
    """
    graph = Graph(dictionary)
    for name in model.variables:
        graph.variable(name)  # an input, even if the model makes no use of it
    found = _output(graph, model)
    if model.classifies:
        result = graph.add("Concat", [graph.add("Sub", [graph.constant(1.0), found]), found], axis=1)
    else:
        result = found
    output = "probability" if model.classifies else "prediction"
    while output in model.variables:
        output += "_"
    graph.add("Identity", [result], output=output)
    variable = dictionary[outcome]
    properties = {"outcome": outcome, "model_sha256": model.sha256, **metadata}
    if isinstance(variable, CategoryVariable):
        properties["levels"] = json.dumps(list(variable.levels), ensure_ascii=False)
    return graph.finished(output, 2 if model.classifies else 1, properties)


def _output(graph: Graph, model: Model) -> str:
    """Return the risk, or the prediction; shape (rows, 1)."""
    if isinstance(model, ForestModel):
        mean = tree_ensemble(graph, model)
        return _clipped(graph, mean, 0.0, 1.0) if model.classifies else mean
    columns = _columns(graph, model.design)
    if isinstance(model, NetworkModel):
        return graph.add("Sigmoid", [_layers(graph, model, columns)])
    weights = graph.constant(model.beta[1:, None])
    total = graph.add("Add", [graph.add("MatMul", [columns, weights]), graph.constant(float(model.beta[0]))])
    if isinstance(model, LinearModel):
        return _clipped(graph, total, model.low, model.high)
    return graph.add("Sigmoid", [total])


def _layers(graph: Graph, model: NetworkModel, layer: str) -> str:
    for i, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        if i:
            layer = graph.add(_ACTIVATIONS[model.activation], [layer])
        layer = graph.add("Add", [graph.add("MatMul", [layer, graph.constant(weight)]), graph.constant(bias)])
    return _clipped(graph, layer, -MOST_LOG_ODDS, MOST_LOG_ODDS)


def _clipped(graph: Graph, value: str, low: float, high: float) -> str:
    return graph.add("Clip", [value, graph.constant(low), graph.constant(high)])


def _columns(graph: Graph, design: Design) -> str:
    """Return the design's columns without the intercept; shape (rows, terms)."""
    fill = dict(zip(design.fill_names, design.fill_values.tolist(), strict=True))
    raw = graph.add("Concat", [_term(graph, term, fill) for term in design.terms], axis=1)
    centred = graph.add("Sub", [raw, graph.constant(design.centres[None, :])])
    return graph.add("Mul", [centred, graph.constant(design.scales[None, :])])


def _term(graph: Graph, term: Term, fill: Mapping[str, float]) -> str:
    value = _factor(graph, term.factors[0], fill)
    for factor in term.factors[1:]:
        value = graph.add("Mul", [value, _factor(graph, factor, fill)])
    return value


def _factor(graph: Graph, factor: Factor, fill: Mapping[str, float]) -> str:
    name = factor.variable
    value, number = graph.variable(name), isinstance(graph.dictionary[name], NumberVariable)
    absent = (
        graph.add("IsNaN", [value]) if number else graph.add("Less", [value, graph.constant(np.int64(0))])
    )
    if factor.level == MISSING:
        return graph.add("Cast", [absent], to=TensorProto.DOUBLE)
    if number:
        return graph.add("Where", [absent, graph.constant(fill[name]), value]) if name in fill else value
    if name in fill:
        value = graph.add("Where", [absent, graph.constant(np.int64(fill[name])), value])
    here = graph.add("Equal", [value, graph.constant(np.int64(factor.level))])
    return graph.add("Cast", [here], to=TensorProto.DOUBLE)
