"""Type-1 diabetes: the patient's equations, generated patients, meals, CGM and pump.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from simulators.glucose.model import DISCLAIMER, Glucose

__all__ = ["DISCLAIMER", "Glucose"]
