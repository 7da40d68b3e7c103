"""An ONNX graph under construction, and its inputs: raw variables in, cleaned as a hospital's table is read.

Numbers are doubles, NaN where missing; categories are texts, empty where missing, and any declared code
stands for its level. What is coded missing or out of range counts as missing, as does a text that is no code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

from wardround_common.dictionary import CategoryVariable, Dictionary, NumberVariable
from wardround_common.estimators.cells import meanings, missing_numbers
from wardround_common.typing import Array

ML = "ai.onnx.ml"
_OPSETS = (("", 18), (ML, 5))
_IR_VERSION = 10


class Graph:
    """Each method that adds something returns the name of its value."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        self._inputs: dict[str, tuple[int, str]] = {}  # name: its type, and the value made of it
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def add(
        self, kind: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output."""
        output = output or f"wardround/{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: float | np.int64 | Array) -> str:
        """Add an array; a float is a double."""
        name = f"wardround/constant/{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def finished(self, output: str, width: int, properties: Mapping[str, str]) -> bytes:
        """Return the bytes of the checked model."""
        inputs = [
            helper.make_tensor_value_info(name, kind, ["rows", 1]) for name, (kind, _) in self._inputs.items()
        ]
        outputs = [helper.make_tensor_value_info(output, TensorProto.DOUBLE, ["rows", width])]
        graph = helper.make_graph(self._nodes, "wardround", inputs, outputs, self._constants)
        model = helper.make_model(
            graph,
            producer_name="wardround",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in _OPSETS],
        )
        helper.set_model_props(model, dict(properties))
        checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data

    def variable(self, name: str) -> str:
        """Return a number, NaN where missing, or a position in the levels, -1 where missing; (rows, 1)."""
        if name not in self._inputs:
            variable = self.dictionary[name]
            if isinstance(variable, NumberVariable):
                self._inputs[name] = (TensorProto.DOUBLE, self._number(name, variable))
            else:
                self._inputs[name] = (TensorProto.STRING, self._category(name, variable))
        return self._inputs[name][1]

    def _number(self, name: str, variable: NumberVariable) -> str:
        low, high = variable.range
        gone = self.add(
            "Or",
            [
                self.add("Less", [name, self.constant(low)]),
                self.add("Greater", [name, self.constant(high)]),
            ],
        )
        for code in missing_numbers(variable):
            gone = self.add("Or", [gone, self.add("Equal", [name, self.constant(code)])])
        return self.add("Where", [gone, self.constant(math.nan), name])

    def _category(self, name: str, variable: CategoryVariable) -> str:
        known = meanings(variable)
        return self.add(
            "LabelEncoder",
            [name],
            domain=ML,
            keys_strings=list(known),
            values_int64s=list(known.values()),
            default_int64=-1,
        )
