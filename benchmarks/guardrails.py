"""How honest the guardrail heads are: coverage of their margins step by step, before and after online adaptation, and how
few laboratory labels a hidden quantity takes.

    python -m benchmarks.guardrails [--quick] [--plants reactor,vandevusse,turbofan,glucose] [--seeds 3]
                                    [--json benchmarks/results/guardrails.json] [--check] [--cache DIR]

Bars: coverage within 1 point of nominal (90 and 99 %) at every step on held-out runs; at least nominal - 3 points at every
step on each shift once margins have adapted; a head on the frozen latent reaches 95 % of its full-label R2 with 100 labels.

Margins are calibrated on runs recorded for that alone; those reported are others. A prediction counts where it comes near
its guardrail; a guardrail that too few come near is shown and not judged. Coverage is of what the guardrail watches: a
measured tag as its instrument shows it, a hidden quantity as it is. Of a hidden quantity nothing is observed online, so its
margins cannot adapt; beside them stands what a label now and then would do. Latents for the label curve come from a model
trained without any label where the usual one has seen them.

Glucose: research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.guardrail_scores import (
    LABELS,
    Coverage,
    held_out,
    label_curves,
    shift_coverage,
)
from benchmarks.report import Report
from benchmarks.trained import trained
from benchmarks.world_model_data import missing
from benchmarks.world_model_rows import CORE, QUICK, Sizes
from models.config import TrainingConfig
