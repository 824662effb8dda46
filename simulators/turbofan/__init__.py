"""`Turbofan`: a JT9D-class engine with its fuel valve, delay and sensors; `Engine`: the engine alone."""

from simulators.turbofan.engine import HEALTH, Engine
from simulators.turbofan.plant import Turbofan

__all__ = ["HEALTH", "Engine", "Turbofan"]
