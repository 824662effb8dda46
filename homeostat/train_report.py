"""What a training run looked like: one HTML page beside the checkpoint, pictures inside, nothing to fetch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homeostat.gain_report import sections
from homeostat.report_figures import axes_of, svg
from models.calibration import Calibration, errors_on
from models.diagnostics import Rollouts, roll_outs, spectrum
from models.gains import Gains
from models.plant_surprise import PlantSurprise, follow
from models.windows import Run, known_stretch, usual_of
from models.world_model import WorldModel

_FAULT_SIGMAS = (3.0, 10.0)


@dataclass
class History:
    """Losses on validation runs as training went: step -> terms."""

    steps: list[int] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)

    def add(self, step: int, terms: dict[str, float]) -> None:
        """One report of the training."""
        self.steps.append(step)
        self.terms.append(terms)


def write(
    path: Path,
    model: WorldModel,
    calibration: Calibration,
    surprise: PlantSurprise | None,
    runs: Sequence[Run],
    facts: dict[str, Any],
    history: History,
) -> None:
    """Write the page for `model` to `path`; every figure is on the held-out `runs` that are no simulated incidents,
    `facts` as in the checkpoint."""
    usual = usual_of(runs)
    horizon = max(1, min(30, min(len(r) for r in usual) - 2, known_stretch(usual)))
    rolled = roll_outs(model, usual, horizon)
    figures = [("Losses on validation runs, each before its weight", _losses(history))] if history.terms else []
    figures += [
        ("Latent spectrum: how many directions carry something", _spectrum(rolled)),
        ("Error k samples ahead, as a share of each tag's standard deviation", _k_step(model, rolled)),
    ]
    if model.n_mv:
        figures.append(("Action gain: error with another sample's moves over error with the real ones", _gain(rolled)))
    if model.spec.guardrails:
        figures.append(
            (
                "Calibration: share of held-out stretches inside the margin, by step",
                _coverage(model, calibration, usual),
            )
        )
    if surprise is not None:
        figures.append(("Surprise: normal, and with one sensor at fault", _surprise(model, surprise, usual)))
        figures.append(
            ("Surprise of one run before and after a sensor is at fault", _faulty_run(model, surprise, usual))
        )
    gains = Gains.of_facts(facts)
    if gains is not None:
        figures += sections(gains)
    suspect = "; ".join(facts["suspect"]) if facts["suspect"] else ""
    verdict = f"<p class=bad>SUSPECT: {html.escape(suspect)}</p>" if suspect else "<p class=good>Not suspect.</p>"
    choice = _choice(facts["choice"]) if "choice" in facts else ""
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{v:g}</td></tr>" for k, v in facts["diagnostics"].items())
    body = "".join(f"<section><h2>{html.escape(title)}</h2>{svg}</section>" for title, svg in figures)
    path.write_text(
        f"""<!doctype html><html lang=en><meta charset=utf-8><title>World model of {html.escape(model.spec.name)}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;color:#1b2a3a}}h2{{font-size:1rem}}
table{{border-collapse:collapse;columns:2}}table.gains{{columns:1;font-size:.8rem}}td{{padding:.1rem .8rem;border-bottom:1px solid #ddd}}svg{{width:100%;height:auto}}
.bad{{color:#c0392b;font-weight:bold}}.good{{color:#2e8b57}}</style>
<h1>World model of {html.escape(model.spec.name)}</h1><p>{html.escape(model.spec.about)}</p><p>Made by <code>{html.escape(facts["command"])}</code>, revision
{html.escape(facts["revision"])}, {html.escape(facts["date"])}, {facts["seconds"]:g} s of training.
Everything below was measured on runs that were neither trained nor calibrated on.</p>{verdict}{choice}{body}<table>{rows}</table></html>
""",
        encoding="utf-8",
    )


def _choice(choice: dict[str, Any]) -> str:
    """Every model that was tried, and what it errs."""
    head = "".join(f"<th>{k} ahead</th>" for k in choice["steps"])
    rows = "".join(
        f"<tr><td>{html.escape(c['name'])}</td><td>{c['held_out']:.3f}</td>"
        + "".join(f"<td>{v:.3f}</td>" for v in c["test"])
        + f"<td>{html.escape(c['said'])}</td></tr>"
        for c in choice["candidates"]
    )
    return f"""<section><h2>Models tried: {html.escape(choice["said"])}</h2><p>Errors as shares of a standard deviation, mean over
tags. Held-out time chose; test runs report, so many samples ahead.</p>
<table style="columns:1"><tr><th>model</th><th>held-out time</th>{head}<th></th></tr>{rows}</table></section>"""


def _losses(history: History) -> str:
    figure, axes = axes_of()
    for name in history.terms[0]:
        values = [max(t[name], 1e-9) for t in history.terms]
        if max(values) > 1e-8:
            axes.plot(history.steps, values, lw=1.2, label=name)
    axes.set(xlabel="step", yscale="log")
    axes.legend(fontsize=8, ncols=3)
    return svg(figure)


def _spectrum(rolled: Rollouts) -> str:
    figure, axes = axes_of()
    values = spectrum(rolled.z)
    axes.bar(range(1, len(values) + 1), (values / values.sum()).tolist(), color="#2c6fbb")
    axes.set(xlabel="direction", ylabel="share of variance", yscale="log")
    return svg(figure)


def _k_step(model: WorldModel, rolled: Rollouts) -> str:
    figure, axes = axes_of(3.2)
    steps = range(1, rolled.truth.shape[1] + 1)
    for tag, values in zip(model.spec.measured, rolled.nrmse(rolled.real).T.tolist(), strict=True):
        axes.plot(steps, values, lw=1.3, label=tag.name)
    axes.axvline(model.config.horizon, color="#7f8c8d", lw=0.8, ls="--")
    axes.set(xlabel="samples ahead (dashed: the horizon it was trained to)", ylabel="NRMSE", ylim=(0, None))
    axes.legend(fontsize=8, ncols=4)
    return svg(figure)


def _gain(rolled: Rollouts) -> str:
    figure, axes = axes_of()
    error = [(g - rolled.truth).square().nanmean((0, 2)).sqrt() for g in (rolled.shuffled, rolled.real)]
    axes.plot(range(1, len(error[0]) + 1), (error[0] / error[1].clamp(min=1e-9)).tolist(), color="#8e5ea2")
    axes.axhline(1.0, color="#c0392b", lw=0.8)
    axes.set(xlabel="samples ahead (red: the moves do not matter)", ylim=(0, None))
    return svg(figure)


def _coverage(model: WorldModel, calibration: Calibration, runs: Sequence[Run]) -> str:
    horizon = len(calibration.margins)
    optimism = errors_on(model, runs, horizon).optimism
    figure, axes = axes_of()
    for i, rail in enumerate(model.spec.guardrails):
        known = torch.isfinite(optimism[..., i])
        inside = ((optimism[..., i] <= calibration.margins[:, i]) & known).sum(0) / known.sum(0).clamp(min=1)
        axes.plot(range(1, horizon + 1), inside.tolist(), lw=1.3, label=rail.name)
    axes.axhline(calibration.level, color="#c0392b", lw=0.8)
    axes.set(xlabel="samples ahead (red: promised, for plans that are executed, all steps at once)", ylim=(0.9, 1.003))
    axes.legend(fontsize=8, ncols=3)
    return svg(figure)


def _with_bias(model: WorldModel, run: Run, tag: int, sigmas: float, onset: int) -> Run:
    """The run, one measurement off by so many deviations of its sensor's noise from `onset` on."""
    measured = run.measured.copy()
    measured[onset:, tag] += sigmas * (model.spec.measured[tag].noise or 1e-3 * model.spec.measured[tag].span)
    return replace(run, measured=measured)


def _surprise(model: WorldModel, surprise: PlantSurprise, runs: Sequence[Run]) -> str:
    figure, axes = axes_of()
    kinds = [("normal", list(runs))]
    for sigmas in _FAULT_SIGMAS:
        faulty = [_with_bias(model, r, i, sigmas, 0) for r in runs for i in range(model.n_measured)]
        kinds.append((f"one sensor {sigmas:g} sigma off", faulty))
    for name, some in kinds:
        scores = [surprise.judge(*f).score[surprise.settle :] for f in follow(model, some, surprise.steps)]
        values = np.sort(np.concatenate(scores))
        axes.plot(values, np.linspace(0, 1, len(values)), lw=1.3, label=name)
    axes.axvline(1.0, color="#c0392b", lw=0.8)
    axes.set(xlabel="surprise (red: the limit)", ylabel="share of samples below", xlim=(0, 5))
    axes.legend(fontsize=8)
    return svg(figure)


def _faulty_run(model: WorldModel, surprise: PlantSurprise, runs: Sequence[Run]) -> str:
    """The longest run, each measurement in turn off by the larger fault from its middle on."""
    run = max(runs, key=len)
    onset = max(len(run) // 2, min(surprise.settle + 1, len(run) - 1))
    figure, axes = axes_of()
    faulty = [_with_bias(model, run, i, _FAULT_SIGMAS[-1], onset) for i in range(model.n_measured)]
    for tag, followed in zip(model.spec.measured, follow(model, faulty, surprise.steps), strict=True):
        axes.plot(surprise.judge(*followed).score, lw=1.2, label=tag.name)
    axes.axhline(1.0, color="#c0392b", lw=0.8)
    axes.axvline(onset, color="#7f8c8d", lw=0.8, ls="--")
    axes.set(
        xlabel=f"sample (dashed: {_FAULT_SIGMAS[-1]:g} sigma from here on)",
        ylabel="surprise (red: the limit)",
        ylim=(0, None),
    )
    axes.legend(fontsize=8, ncols=4)
    return svg(figure)
