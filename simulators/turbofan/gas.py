"""Air and combustion products: specific heat as a polynomial of temperature and fuel-air ratio. BTU, lbm, R."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulators.contract import Namespace
from simulators.turbofan.maps import data

GAS_R = 0.06856  # BTU/(lbm R)


@dataclass(frozen=True)
class Gas:
    """A gas of one fuel-air ratio: cp = a0 + a1 t + a2 t^2 + a3 t^3, t = T/1000."""

    a0: Any
    a1: Any
    a2: Any
    a3: Any

    @classmethod
    def of(cls, fuel_air_ratio: Any) -> Gas:
        c0, c1, c2, c3, d0, d1, d2 = data().cp
        f = fuel_air_ratio
        return cls(c0 + f * d0, c1 + f * d1, c2 + f * d2, c3)

    def cp(self, temperature_R: Any) -> Any:
        t = 0.001 * temperature_R
        return self.a0 + t * (self.a1 + t * (self.a2 + t * self.a3))

    def enthalpy(self, temperature_R: Any) -> Any:
        """The integral of cp from 0 R, BTU/lbm."""
        t = 0.001 * temperature_R
        return temperature_R * (self.a0 + t * (0.5 * self.a1 + t * (self.a2 / 3.0 + t * (0.25 * self.a3))))

    def temperature(self, enthalpy: Any, guess_R: Any, steps: int) -> Any:
        """The temperature of an enthalpy by Newton steps from a guess: two reach 1e-6 R from 100 R away."""
        t = guess_R
        for _ in range(steps):
            t = t + (enthalpy - self.enthalpy(t)) / self.cp(t)
        return t

    def isentropic(self, temperature_R: Any, log_ratio: Any, xp: Namespace) -> Any:
        """Temperature after a reversible change by a pressure ratio, given as its logarithm: two Newton steps on the
        entropy function, taken in s = ln(T/T1), whose logarithm is thus known."""
        wanted = GAS_R * log_ratio + self._entropy_polynomial(temperature_R)
        s = GAS_R / self.cp(temperature_R) * log_ratio
        t = temperature_R * xp.exp(s)
        for _ in range(2):
            ds = (wanted - self.a0 * s - self._entropy_polynomial(t)) / self.cp(t)
            s = s + ds
            t = t * (1.0 + ds * (1.0 + ds * (0.5 + ds * (1.0 / 6.0))))
        return t

    def _entropy_polynomial(self, temperature_R: Any) -> Any:
        t = 0.001 * temperature_R
        return t * (self.a1 + t * (0.5 * self.a2 + t * (self.a3 / 3.0)))
