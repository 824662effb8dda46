"""What shows whether a representation collapsed and whether the moves matter to it. Logged, stored, shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.regularisers import sigreg
from models.windows import Run, Scale, WindowSet
from models.world_model import WorldModel


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the covariance spectrum of z (samples x latent): how many directions are used."""
    spectrum = torch.linalg.eigvalsh(torch.cov(z.T)).clamp(min=0)
    share = spectrum / spectrum.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


def participation_ratio(z: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of z (samples x latent)."""
    spectrum = torch.linalg.eigvalsh(torch.cov(z.T)).clamp(min=0)
    return float(spectrum.sum() ** 2 / spectrum.square().sum().clamp(min=1e-12))


def diagnose(model: WorldModel, runs: Sequence[Run], steps: Sequence[int] = (1, 5, 15)) -> dict[str, float]:
    """Diagnostics on held-out `runs`: effective_rank, participation_ratio, least and median latent std, sigreg (a
    Gaussian reads 1.05), inverse R^2, action gain (error with shuffled moves over error with the real ones), and the
    k-step error of each tag as a share of its standard deviation (`nrmse_TAG_k`), moves and disturbances as they were."""
    horizon = max(steps)
    scale = Scale(model.channel_mean.double().cpu().numpy(), model.channel_std.double().cpu().numpy())
    data = WindowSet(runs, scale, model.config.window, horizon, shortest=horizon)
    nm, nd = data.n_measured, data.n_dv
    index, _ = data.sequence(data.starts)
    known = data.mask[index][:, 1:, nm + nd :].amin(-1).amin(-1) > 0
    index = index[known]
    rng = torch.Generator().manual_seed(0)
    rows = data.rows[index]
    y, d, u = rows[..., :nm], rows[..., nm : nm + nd], rows[..., nm + nd :]
    with torch.inference_mode():
        z = model.encode_normalised(*data.gather(index[:, 0]))
        values, mask = data.gather(index[:, 1])
        mask = mask.clone()
        mask[:, -1, nm + nd :] = 0.0
        guess = model.inverse_head(torch.cat([z, model.encode_normalised(values, mask)], -1))
        unexplained = (guess - u[:, 1]).square().mean() / u[:, 1].var().clamp(min=1e-9)
        shuffled = u[torch.randperm(len(u), generator=rng)]
        out = {
            "effective_rank": effective_rank(z),
            "participation_ratio": participation_ratio(z),
            "least_std": float(z.std(0).min()),
            "median_std": float(z.std(0).median()),
            "sigreg": float(sigreg(z[torch.randperm(len(z), generator=rng)[:2048]], 256, rng)),
            "inverse_r2": float(1 - unexplained),
        }
        real, wrong = z, z
        for k in range(1, horizon + 1):
            real = model.advance_normalised(real, u[:, k], d[:, k - 1])
            wrong = model.advance_normalised(wrong, shuffled[:, k], d[:, k - 1])
            if k in steps:
                error = (model.read_out_head(real) - y[:, k]).square().nanmean(0).sqrt()
                for i, tag in enumerate(model.spec.measured):
                    out[f"nrmse_{tag.name}_{k}"] = float(error[i] / y[:, k, i].std().clamp(min=1e-9))
                if k == min(5, horizon):
                    other = (model.read_out_head(wrong) - y[:, k]).square().nanmean().sqrt()
                    out["action_gain"] = float(other / error.square().mean().sqrt())
    return out


def suspicions(facts: dict[str, float], n_states: int) -> list[str]:
    """Why a run is suspect, in words; empty when it is not. `n_states` is the least rank a sound latent can have."""
    found = []
    if facts["effective_rank"] < n_states:
        found.append(f"effective rank {facts['effective_rank']:.1f} is below the plant's {n_states} measurements")
    if facts.get("action_gain", 9.0) < 1.2:
        found.append(f"the moves hardly matter to the prediction (action gain {facts['action_gain']:.2f})")
    if facts["inverse_r2"] < 0.1:
        found.append(f"the moves cannot be told from the latents (inverse R2 {facts['inverse_r2']:.2f})")
    return found
