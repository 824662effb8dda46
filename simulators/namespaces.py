"""The namespaces the equations run in: `NumpyNamespace`, `TorchNamespace`, `CasadiNamespace`."""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyNamespace:
    """Elementwise numpy."""

    exp, log, tanh, where = staticmethod(np.exp), staticmethod(np.log), staticmethod(np.tanh), staticmethod(np.where)
    minimum, maximum, sqrt = staticmethod(np.minimum), staticmethod(np.maximum), staticmethod(np.sqrt)


class TorchNamespace:
    """Elementwise torch: any device and dtype, differentiable. Scalars are promoted to the other operand's tensor."""

    def __init__(self) -> None:
        import torch  # a process that only simulates with numpy need not load torch

        self._torch = torch
        self.exp, self.log, self.tanh, self.sqrt, self.where = torch.exp, torch.log, torch.tanh, torch.sqrt, torch.where

    def minimum(self, a: Any, b: Any) -> Any:
        return self._torch.clamp(a, max=b)

    def maximum(self, a: Any, b: Any) -> Any:
        return self._torch.clamp(a, min=b)


class CasadiNamespace:
    """CasADi SX or MX expressions."""

    def __init__(self) -> None:
        import casadi

        self.exp, self.log, self.tanh, self.sqrt = casadi.exp, casadi.log, casadi.tanh, casadi.sqrt
        self.minimum, self.maximum, self.where = casadi.fmin, casadi.fmax, casadi.if_else
