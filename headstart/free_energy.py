"""What chains around a checkpoint say: loss, WBIC, local learning coefficient, trace; and whether it holds.

Pure functions of `headstart.workbench.Chains`. In nats, of n rows at inverse temperature beta and
localisation gamma, E being the mean over the draws w:

    loss          L_n(w*), the mean over the rows; its error is that of the rows
    llc           n beta E[L_n(w) - L_n(w*)], the local learning coefficient; its error is Monte Carlo's
    wbic          E[n L_n(w)] = n L_n(w*) + llc / beta; its error is Monte Carlo's, the rows being given
    free energy   m L_n(w*) + llc log m, of m rows to come; both errors
    trace         tr(H), Hutchinson's estimate; the error of its probes
    first order   (n beta / gamma) (tr(H)/2 - n beta |g|^2), g the slope at w*: what llc comes to where the
                  prior is far narrower than the loss is curved. An llc that cannot be told from it adds
                  nothing to loss, trace and slope

Whether chains have converged is for `judge` to say: by `headstart.chains`, and by what that does not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.chains import (
    FEWEST_CHAINS,
    FEWEST_EFFECTIVE,
    MOST_DRIFT,
    MOST_RHAT,
    Diagnosis,
    diagnose,
)
from headstart.failures import NonFinite

if TYPE_CHECKING:
    from jaxtyping import Float

    from headstart.workbench import Chains, Scheme

LARGEST = 1e30  # of a loss or a distance: beyond it a chain has left
MOST_STEP_ERROR = 0.15  # of the excess, where the chains end: the ladder takes 0.1 on its pilots
LEAST_ACCEPTANCE = 0.5  # of crank-nicolson's steps; below, they are too coarse for the loss
MOST_COARSE, COARSE = 0.25, 0.1  # of what a step is stable up to, along the sharpest direction; a ladder's
MOST_GROWTH = 0.1  # of |w - w*| from the first third of the draws to the last
BEYOND = 2.0  # standard errors that tell two numbers apart
MORE = 1.25  # times the draws that should do
WELL_KNOWN = 0.25  # of llc: the most that the first order's error may be to speak of it
LONGEST = 100_000  # draws, and steps of a burn-in, that can be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number with its standard error; None: it cannot be told."""

    value: float
    stderr: float | None

    def told(self) -> dict[str, float | None]:
        """As it stands in a score's details."""
        return {"value": self.value, "stderr": self.stderr}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the chains have converged, and what was looked at."""

    draws: Diagnosis  # of n beta times the excess: its mean is the llc
    travelled: float  # mean |w - w*|, in radii of the prior: sqrt(d / gamma)
    growth: float  # of |w - w*|, the last third of the draws over the first, less 1
    acceptance: float | None  # mean chance that Metropolis would accept a step; None: not told
    faults: tuple[str, ...]  # sentences; none where the chains have converged
    remedy: str  # what to ask for instead; "" where there is no fault

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the draws."""
        return not self.faults

    @property
    def numbers(self) -> str:
        """What was looked at, in one line."""

        def of(value: float | None, form: str) -> str:
            return "not told" if value is None or not math.isfinite(value) else format(value, form)

        return (
            f"R-hat {of(self.draws.rhat, '.3f')}, {self.draws.effective:.0f} effective draws of "
            f"{self.draws.chains * self.draws.draws}, drift {of(self.draws.drift, '+.1f')} standard errors, "
            f"travelled {self.travelled:.2f} of the radius, acceptance {of(self.acceptance, '.2f')}"
        )

    def told(self) -> dict[str, Any]:
        """As it stands in a score's details; what is not finite is None."""
        numbers = {
            "rhat": self.draws.rhat,
            "effective": self.draws.effective,
            "drift": self.draws.drift,
            "travelled": self.travelled,
            "growth": self.growth,
        }
        return {
            "converged": self.converged,
            **{name: _finite(value) for name, value in numbers.items()},
            "acceptance": self.acceptance,
            "chains": self.draws.chains,
            "draws": self.draws.draws,
            "faults": list(self.faults),
        }


def loss_of(centre: Float[np.ndarray, "n"]) -> Quantity:
    """L_n(w*), nats a row, with the error that other rows would bring; of one row there is none."""
    n = len(centre)
    stderr = float(np.std(centre, ddof=1) / math.sqrt(n)) if n > 1 else None
    return Quantity(value=float(np.mean(centre, dtype=np.float64)), stderr=stderr)


def times(one: Quantity, factor: float) -> Quantity:
    """A multiple by a factor above 0."""
    return Quantity(value=factor * one.value, stderr=None if one.stderr is None else factor * one.stderr)


def llc_of(draws: Diagnosis) -> Quantity:
    """The local learning coefficient, from the diagnosis of n beta times the excess."""
    return Quantity(value=draws.mean, stderr=_finite(draws.stderr))


def wbic_of(loss: Quantity, llc: Quantity, rows: int, beta: float) -> Quantity:
    """E[n L_n(w)], nats: WBIC where beta is 1 / log n."""
    excess = times(llc, 1 / beta)
    return Quantity(value=rows * loss.value + excess.value, stderr=excess.stderr)


def is_minimum(llc: Quantity) -> bool:
    """Whether the loss around the checkpoint is not lower than at it, beyond the Monte Carlo error."""
    return llc.value >= 0 or (llc.stderr is not None and llc.value >= -BEYOND * llc.stderr)


def free_energy_of(loss: Quantity, llc: Quantity, m: int) -> Quantity | None:
    """m L_n(w*) + llc log m; None where the checkpoint is no minimum of these rows, as the formula asks."""
    if not is_minimum(llc):
        return None
    value = m * loss.value + llc.value * math.log(m)
    if loss.stderr is None or llc.stderr is None:
        return Quantity(value=value, stderr=None)
    return Quantity(value=value, stderr=math.hypot(m * loss.stderr, llc.stderr * math.log(m)))


def trace_of(probes: Float[np.ndarray, "p"]) -> Quantity | None:
    """tr(H); None without probes. One probe has no error."""
    probes = np.asarray(probes, dtype=np.float64)
    if not len(probes):
        return None
    stderr = float(np.std(probes, ddof=1) / math.sqrt(len(probes))) if len(probes) > 1 else None
    return Quantity(value=float(np.mean(probes)), stderr=stderr)


def slope_share(chains: Chains) -> float:
    """What the slope at the checkpoint takes off the llc, at first order: -(n beta)^2 |g|^2 / gamma."""
    return -chains.strength * (chains.strength * chains.slope / chains.localisation)


def first_order(chains: Chains, trace: Quantity) -> Quantity:
    """The llc of the prior alone, to first order in n beta / gamma: (n beta / gamma)(tr(H)/2 - n beta |g|^2).

    A quadratic loss of curvatures h has an llc of 1/2 sum n beta h / (n beta h + gamma): no more than this,
    and this where gamma is far above every n beta h.
    """
    ratio = chains.strength / (2 * chains.localisation)
    return Quantity(
        value=ratio * trace.value + slope_share(chains),
        stderr=None if trace.stderr is None else ratio * trace.stderr,
    )


def adds_nothing(llc: Quantity, first: Quantity) -> bool:
    """Whether the llc cannot be told from its first order, which is itself known well enough to say so."""
    if llc.stderr is None or first.stderr is None or first.stderr > WELL_KNOWN * abs(llc.value):
        return False
    return abs(llc.value - first.value) <= BEYOND * math.hypot(llc.stderr, first.stderr)


def details_of(chains: Chains, verdict: Verdict, m: int | None) -> dict[str, Any]:
    """All of it, as it stands in a score's details; `m` rows to come, None: as many as there are."""
    n, m = len(chains.centre), len(chains.centre) if m is None else m
    beta = chains.strength / n
    loss, llc = loss_of(chains.centre), llc_of(verdict.draws)
    to_come, trace = free_energy_of(loss, llc, m), trace_of(chains.trace)
    return {
        "n": n,
        "beta": beta,
        "strength": chains.strength,
        "localisation": chains.localisation,
        "radius": radius_of(chains),
        "dimension": chains.dimension,
        "step": chains.step,
        "step_error": None if chains.step_error is None else _finite(chains.step_error),
        "loss": loss.told(),
        "nl": times(loss, n).told(),
        "wbic": wbic_of(loss, llc, n, beta).told(),
        "llc": llc.told(),
        "free_energy": None if to_come is None else {**to_come.told(), "m": m},
        "trace": None if trace is None else trace.told(),
        "first_order": None if trace is None else first_order(chains, trace).told(),
        "slope": {"value": chains.slope, "of_llc": slope_share(chains)},
        "diagnosis": verdict.told(),
    }


def notes_of(chains: Chains, verdict: Verdict, scheme: Scheme) -> list[str]:
    """What to know before relying on the value, in words."""
    n, notes = len(chains.centre), []
    llc, trace = llc_of(verdict.draws), trace_of(chains.trace)
    own, first = 1 / math.log(n), None if trace is None else first_order(chains, trace)
    if not math.isclose(chains.strength, n * own, rel_tol=1e-6):
        notes.append(
            f"The value is E[n L_n(w)] at beta {chains.strength / n:.4g}, and no WBIC, which is at {own:.4g}."
        )
    if not is_minimum(llc):
        notes.append(
            f"The loss around the checkpoint is lower than at it (llc {llc.value:.3g}): it is no minimum of "
            "these rows, and m K + llc log m is not given."
        )
    if first is not None and adds_nothing(llc, first):
        notes.append(
            f"llc {llc.value:.3g} cannot be told from {first.value:.3g}, which trace and slope alone come "
            "to: it adds nothing to them and the loss. A larger radius may."
        )
    if scheme == "euler" and (verdict.acceptance or 0.0) < LEAST_ACCEPTANCE:
        told = "cannot be told" if verdict.acceptance is None else f"is {verdict.acceptance:.2f}"
        notes.append(f"How often Metropolis would accept a step {told}: the value may hang on the step.")
    return notes


def check_finite(chains: Chains) -> None:
    """Raise NonFinite where something of the chains is no number, or beyond all measure."""
    counted = {
        "loss of a draw": chains.excess,
        "distance of a draw": chains.distance,
        "loss at the checkpoint": chains.centre,
        "trace": chains.trace,
        "slope": np.array([chains.slope]),
    }
    for what, values in counted.items():
        if not np.all(np.abs(values) <= LARGEST):  # NaN is not
            raise NonFinite(
                f"The {what} is no finite number, at step {chains.step:.3g} around the checkpoint.",
                "Ask for a smaller step or a smaller radius; where the loss at the checkpoint itself is no "
                "number, check its weights for NaN.",
            )


def judge(chains: Chains, scheme: Scheme) -> Verdict:
    """Whether the mean of the draws may be relied on, and what to do where it may not.

    Beside what `headstart.chains` says of the excess loss: steps too coarse for the sharpest direction;
    crank-nicolson steps that Metropolis would mostly refuse (euler's acceptance falls with the dimension, and
    is only told); draws that still leave the checkpoint, which a loss that has levelled off does not show.
    All is finite.
    """
    acceptance = _finite(chains.acceptance)
    draws, away = diagnose(chains.strength * chains.excess), diagnose(chains.distance)
    third = chains.distance.shape[1] // 3
    first, last = (float(part.mean()) for part in (chains.distance[:, :third], chains.distance[:, -third:]))
    growth = last / first - 1 if first > 0 else 0.0
    leaving = abs(growth) > MOST_GROWTH and abs(away.drift) > MOST_DRIFT
    coarse, finer = _too_coarse(chains, scheme)
    faults = [*draws.faults, *coarse]
    if leaving and not draws.stuck:
        faults.append(
            f"The chains are still on their way: their distance from the checkpoint changed by {growth:+.0%} "
            "from the first third of the draws to the last."
        )
    return Verdict(
        draws=draws,
        travelled=float(chains.distance.mean()) / radius_of(chains),
        growth=growth,
        acceptance=acceptance,
        faults=tuple(faults),
        remedy=_remedy(draws, _settling(chains), finer=finer, leaving=leaving),
    )


def coarseness(chains: Chains, scheme: Scheme) -> float | None:
    """eps times what pulls along the sharpest direction, over 4; None where its curvature is not told.

    The step widens the variance there by 1 / (1 - this), and is unstable from 1 on (`worker.sgld`). The
    acceptance does not tell: where a quadratic loss has long been followed by too coarse a step, half of the
    steps or more are accepted, however wide the draws.
    """
    if chains.curvature is None:
        return None
    pull = chains.strength * chains.curvature + (chains.localisation if scheme == "euler" else 0.0)
    return chains.step * pull / 4


def _too_coarse(chains: Chains, scheme: Scheme) -> tuple[list[str], float | None]:
    """What speaks against the step, and a finer one; None where nothing does."""
    said, coarse, acceptance = "", coarseness(chains, scheme), _finite(chains.acceptance)
    if coarse is not None and coarse > MOST_COARSE:
        wide = f"{1 / (1 - coarse):.2g} times too wide" if coarse < 1 else "without any bound"
        said = f"along the sharpest direction the variance of its draws is {wide}"
    elif chains.step_error is not None and not chains.step_error <= MOST_STEP_ERROR:
        share = f"{chains.step_error:.0%}" if chains.step_error < 1 else "all"
        said = f"{share} of what the loss grows by is its doing"
    elif scheme == "crank-nicolson" and acceptance is None:
        said = "its acceptance cannot be told"
    elif scheme == "crank-nicolson" and acceptance is not None and acceptance < LEAST_ACCEPTANCE:
        said = f"its acceptance is {acceptance:.2f}, under {LEAST_ACCEPTANCE}"
    if not said:
        return [], None
    finer = chains.step * COARSE / max(coarse or 0.0, 4 * COARSE)
    return [f"The step of {chains.step:.3g} is too coarse: {said}."], finer


def radius_of(chains: Chains) -> float:
    """Where the prior's draws lie: sqrt(d / gamma) from the checkpoint."""
    return math.sqrt(chains.dimension / chains.localisation)


def _settling(chains: Chains) -> float:
    """Steps after which a flat direction has forgotten the checkpoint to exp(-4)."""
    each = chains.step * chains.localisation
    return 4 / each if each > 0 else math.inf


def _remedy(draws: Diagnosis, settling: float, *, finer: float | None, leaving: bool) -> str:
    """What to ask for instead; "" where nothing is wrong."""
    said, stuck = [], draws.stuck
    if draws.chains < FEWEST_CHAINS:
        said.append(f"Ask for {FEWEST_CHAINS} chains or more.")
    if finer is not None or stuck:
        size = "larger step" if finer is None else f"step of {finer:.1g} or finer"
        said.append(f"Ask for a {size}, or leave the step out: then it is picked by itself.")
    slow = not draws.rhat <= MOST_RHAT or not draws.effective >= FEWEST_EFFECTIVE
    if not stuck and draws.chains >= FEWEST_CHAINS and slow:
        needed = MORE * draws.draws * FEWEST_EFFECTIVE / max(draws.effective, 1.0)
        more = _round(min(max(2 * draws.draws, needed), LONGEST))
        said.append(f"Ask for more draws ({more} of each chain) or a smaller radius.")
    if not stuck and (leaving or abs(draws.drift) > MOST_DRIFT):
        longer = f"a longer burn-in (such as {_round(max(draws.draws, min(settling, LONGEST)))} steps), or "
        said.append(
            f"Ask for {longer if settling <= LONGEST else ''}a smaller radius: without a loss a chain of "
            f"these steps takes {settling:.1g} of them to settle."
        )
    return " ".join(said)


def _round(count: float) -> int:
    """Up, to two digits."""
    size = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return math.ceil(count / size) * size


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
