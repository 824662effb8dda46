"""What shows whether a representation collapsed and whether the moves matter to it. Logged, stored, shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.regularisers import sigreg
from models.windows import Run, WindowSet, all_known, known_stretch, usual_of
from models.world_model import WorldModel
from plant.errors import ModelError


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the covariance spectrum of z (samples x latent): how many directions are used."""
    values = spectrum(z)
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


def participation_ratio(z: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of z (samples x latent)."""
    values = spectrum(z)
    return float(values.sum() ** 2 / values.square().sum().clamp(min=1e-12))


@dataclass(frozen=True)
class Rollouts:
    """Roll-outs on held-out runs: latents `z` (samples x latent) at their starts, and normalised read-outs along them with
    the moves that were made (`real`), with another sample's (`shuffled`), and the truth: samples x horizon x n_measured,
    NaN where nobody knows. `inverse_r2`: how much of a move is told from the latents around it."""

    z: Tensor
    real: Tensor
    shuffled: Tensor
    truth: Tensor
    inverse_r2: float

    def nrmse(self, guess: Tensor) -> Tensor:
        """Error of `guess` as a share of each tag's standard deviation (horizon x n_measured)."""
        spread = torch.stack([_std(self.truth[:, k]) for k in range(self.truth.shape[1])]).clamp(min=1e-9)
        return (guess - self.truth).square().nanmean(0).sqrt() / spread


def roll_outs(model: WorldModel, runs: Sequence[Run], horizon: int) -> Rollouts:
    """Roll `model` over `horizon` samples from every sample of `runs` that is followed by as many with known moves."""
    scale = model.scale()
    data = WindowSet(runs, scale, model.config.window, horizon, horizon, constant=model.constant_scale())
    nm, nd = data.n_measured, data.n_dv
    index, _ = data.sequence(data.starts)
    known = all_known(data.mask[index][:, 1:, nm + nd :]).amin(-1) > 0
    index = index[known]
    if not len(index):
        raise ModelError(
            f"no held-out run knows every move over {horizon} samples in a row",
            f"training data of {model.spec.name}",
            "Record the MVs with the rest: without its moves nothing tells what a plant will do.",
        )
    rows, there = data.rows[index], data.mask[index][:, 1:, :nm] > 0
    y, d, u = rows[..., :nm], rows[..., nm : nm + nd], rows[..., nm + nd :]
    with torch.inference_mode():
        c = data.conditions(index[:, 0])
        z = model.encode_normalised(*data.gather(index[:, 0]), c)
        values, mask = data.gather(index[:, 1])
        mask = mask.clone()
        mask[:, -1, nm + nd :] = 0.0
        guess = model.inverse_head(torch.cat([z, model.encode_normalised(values, mask, c)], -1))[:, : model.n_mv]
        several = u[:, 1].numel() > 1  # one move alone, or none, has no variance to explain
        unexplained = (guess - u[:, 1]).square().mean() / u[:, 1].var().clamp(min=1e-9) if several else torch.nan
        shuffled = u[torch.randperm(len(u), generator=torch.Generator().manual_seed(0))]
        both = []
        for moves in (u, shuffled):
            rolled, outs = z, []
            for k in range(1, horizon + 1):
                rolled = model.advance_normalised(rolled, moves[:, k], d[:, k - 1], c)
                outs.append(model.read_out_head(rolled))
            both.append(torch.stack(outs, 1))
    truth = torch.where(there, y[:, 1:], torch.nan)
    return Rollouts(z, both[0], both[1], truth, float(1 - unexplained))


def diagnose(model: WorldModel, runs: Sequence[Run], steps: Sequence[int] = (1, 5, 15)) -> dict[str, float]:
    """Diagnostics on held-out `runs`: effective_rank of the latents and measured_rank of the measurements, how many directions
    each uses; participation_ratio, least and median latent std, sigreg (a Gaussian reads 1.05), inverse R^2, action gain (five steps ahead, error with another sample's moves over error with the
    real ones), and the k-step error of each tag as a share of its standard deviation (`nrmse_TAG_k`), as many of `steps` ahead as
    every move is known in a row. Simulated incidents, which teach the predictor nothing, count only where there is nothing else. A
    plant without MVs has no inverse R^2 and no action gain. Raises `ModelError` where no move is known."""
    runs = usual_of(runs)
    reach = known_stretch(runs)
    steps = [k for k in steps if k <= reach] or [min(steps)]
    rolled = roll_outs(model, runs, max(steps))
    rng, z = torch.Generator().manual_seed(0), rolled.z
    real = rolled.nrmse(rolled.real)
    five = min(5, max(steps)) - 1
    gain = [(g[:, five] - rolled.truth[:, five]).square().nanmean() for g in (rolled.shuffled, rolled.real)]
    seen = rolled.truth[:, 0]
    seen = seen[torch.isfinite(seen).all(-1)]
    moves = {
        "inverse_r2": rolled.inverse_r2,
        "action_gain": float((gain[0] / gain[1].clamp(min=1e-12)).sqrt()),
    }
    return {
        "effective_rank": effective_rank(z),
        "measured_rank": effective_rank(seen) if len(seen) > 1 else 1.0,
        "participation_ratio": participation_ratio(z),
        "least_std": float(z.std(0).min()),
        "median_std": float(z.std(0).median()),
        "sigreg": float(sigreg(z[torch.randperm(len(z), generator=rng)[:2048]], 256, rng)),
        **(moves if model.n_mv else {}),
    } | {f"nrmse_{tag.name}_{k}": float(real[k - 1, i]) for k in steps for i, tag in enumerate(model.spec.measured)}


def spectrum(z: Tensor) -> Tensor:
    """Eigenvalues (latent,) of the covariance of z (samples x latent), the largest first; 0 of a single sample."""
    if len(z) < 2:
        return torch.zeros(z.shape[1])
    return torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(z.T))).clamp(min=0).flip(0)


def _std(values: Tensor) -> Tensor:
    """Standard deviation along the first axis without NaN."""
    return (values - values.nanmean(0)).square().nanmean(0).sqrt()


def suspicions(facts: dict[str, float]) -> list[str]:
    """Why a run is suspect, in words; empty when it is not. `facts` as `diagnose` gives them; what is not a number
    is suspect."""
    found = []
    rank, least = facts["effective_rank"], facts["measured_rank"]
    if not rank >= least:  # the tags of many plants move together: their number would be too much to ask for
        found.append(f"effective rank {rank:.1f}: the measurements alone have {least:.1f}")
    if not facts.get("action_gain", 9.0) >= 1.2:
        found.append(f"the moves hardly matter to the prediction (action gain {facts['action_gain']:.2f})")
    if not facts.get("inverse_r2", 1.0) >= 0.1:
        found.append(f"the moves cannot be told from the latents (inverse R2 {facts['inverse_r2']:.2f})")
    return found
