"""Free energy: how much good room there is around a checkpoint, by Langevin chains that start at it.

What: WBIC(m, t) = E[n L_n(w)], n times the mean negative log likelihood L_n of n train rows of the target,
averaged over the local posterior exp(-n beta L_n(w) - (gamma/2) |w - w*|^2) around the checkpoint w*. It is
n L_n(w*) + llc log n, llc being the local learning coefficient. `objective` is what the likelihood is of:
"classification" the labels, by a head trained on the frozen features; "masked-lm" and "causal-lm" the texts
themselves, whose labels are not read, so that any texts will do: those of the pretraining, or the target's.
Unit: nats, of n rows.
Range: unbounded; lower is better, and it grows with n.
Source: Munn and Wei, "Leveraging free energy in pretraining model selection for improved fine-tuning", ICML
2025, arXiv 2410.05612. Its downstream free energy is F(w*) = -log int exp(-m K(w)) phi(w) dw = m K(w*) + llc
log m + O(log log m), over the backbone in a ball |w - w*|^2 <= 1/gamma, the head frozen; its rule takes the
checkpoint of least n K + llc log n on the *pretraining* rows. WBIC: Watanabe, JMLR 14, 2013, at beta =
1/log n. llc = n beta (E[L_n(w)] - L_n(w*)): Lau, Furman, Wang, Murfet, Wei, arXiv 2308.12108.

The link from pretraining to the target (its proposition 5.1: K1 + llc1 log m / m <= M K0 + D + llc0 log m /
m) asks for llc1 <= llc0 and a bounded ratio of the two densities, and its proof for covariate shift. Treat
it as a heuristic: `GET /families/{name}` says how well it has foretold your own finetunes.

When it does not apply: a regression, by labels; a checkpoint without a mask token or a causal body, by
texts; train rows of one class. **Compare values only within one family and one protocol**: two networks that
compute the same differ in it (a ReLU network rescaled between its layers), and n, beta, gamma, the rows and
the objective move it. A checkpoint is seldom a minimum of rows it was not trained on: where its llc is below
0 beyond its error, m K + llc log m is not given, and `notes` says so.

Not converged is an outcome, not a number: chains that `headstart.free_energy.judge` does not pass end the
job as NotApplicable, with what was seen and what to ask for. `preset: paper` is the paper's own setting (one
chain of 3,000 steps of 2e-7, gamma 1, no burn-in), far from equilibrium: it tells of the loss and of the
sharpest directions. Its score is kept under quarantine (`not_converged`), and is no evidence.

Where we deviate: the density has gamma/2, as the code of the llc has; the paper writes gamma. The ball is a
Gaussian of gamma = d / `radius`^2 for d numbers that move, so that its draws lie at `radius` (the ball's is
1/sqrt(gamma)); at gamma 1 the paper's chain has sqrt(d) to go, 3,000 for a ResNet-18, and does not get there.
The head is not the pretraining's: L-BFGS finds it on the features of the n rows, to convergence, with the l2
penalty of the least validation log-loss; then it is frozen (`head: unfrozen` moves it too). Dropout and
batch statistics are off. A draw's loss is that of its batch less that of w* on the same rows, which cuts its
variance. The steps are Crank-Nicolson's (Cotter, Roberts, Stuart, White, Stat. Sci. 28, 2013), exact for the
prior at any size, where Euler's have to shrink with d; neither is corrected by Metropolis, whose acceptance
is told. m K is m L_n(w*): the entropy of the labels stays in, the same for all checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from headstart.arrays import finite_features
from headstart.chains import FEWEST_CHAINS, FEWEST_DRAWS
from headstart.failures import NotApplicable
from headstart.free_energy import check_finite, details_of, judge, notes_of
from headstart.logistic import principal_axes
from headstart.method import Measurement, Method, Params, Source
from headstart.methods.linear_probe import LinearProbeParams, Part, Strength, choose_head
from headstart.workbench import LAST, ChainSpec, FeatureSpec, LinearHead, Objective, Precision, Scheme

if TYPE_CHECKING:
    from typing import Self

    from jaxtyping import Float32, Int

    from headstart.free_energy import Verdict
    from headstart.logistic import Axes
    from headstart.methods.linear_probe import Choice
    from headstart.workbench import Chains, Workbench

FEWEST_ROWS = 10
UNSEEN = -1e4  # logit of a class without train rows: never predicted, and finite in every precision
PAPER: dict[str, Any] = {
    "scheme": "euler",
    "localisation": 1.0,
    "step": 2e-7,
    "chains": 1,
    "draws": 3000,
    "burn_in": 0,
    "controlled": False,
}  # of arXiv 2410.05612, appendix; it does not say its n, and its batch of 2,048 is for images
STRENGTHS: tuple[float, ...] = LinearProbeParams.model_fields["l2"].default


class FreeEnergyParams(Params):
    """Which local posterior, and how it is sampled. What is left out is filled in by the preset."""

    preset: Literal["converged", "paper"] = Field(
        "converged",
        description="What fields left out become. paper: scheme euler, localisation 1, step 2e-7, 1 chain "
        "of 3000 draws without burn-in; where that has not converged the score is kept and is no evidence.",
    )
    objective: Objective = Field(
        "classification", description="Whose likelihood: the labels', or that of the texts themselves."
    )
    rows: int = Field(1000, ge=FEWEST_ROWS, le=10_000_000, description="n: train rows at most, at random.")
    max_tokens: int = Field(
        128, ge=8, le=8192, description="Longer texts are cut; the share of them is told."
    )
    beta: float | None = Field(
        None, gt=0, le=1000, description="Inverse temperature; null: 1/log n, that of WBIC."
    )
    radius: float | None = Field(
        10.0, gt=0, le=1e6, description="How far from the checkpoint the prior lies; gamma is d / radius^2."
    )
    localisation: float | None = Field(
        None, gt=0, le=1e18, description="gamma itself, of exp(-(gamma/2) |w - w*|^2), in place of a radius."
    )
    scheme: Scheme = Field("crank-nicolson", description="euler is SGLD as published.")
    step: float | None = Field(
        None, gt=0, le=1e6, description="epsilon; null: the largest of a ladder that Metropolis would accept."
    )
    precondition: float | None = Field(
        None, gt=0, lt=1, description="Decay of RMSprop's mean of squares, such as 0.99; euler only."
    )
    controlled: bool = Field(
        True,
        description="Whether a batch's gradient is corrected by what it is at the checkpoint: a second pass "
        "a step takes most of the noise of batches away, which would widen the sharp directions. False: as "
        "published, and where steps are preconditioned.",
    )
    chains: int = Field(FEWEST_CHAINS, ge=1, le=64)
    draws: int = Field(
        100, ge=FEWEST_DRAWS, le=100_000, description="Steps of each chain that count, all of them."
    )
    burn_in: int = Field(20, ge=0, le=100_000, description="Steps of each chain before them.")
    batch_rows: int = Field(16, ge=1, le=100_000, description="Rows of one step.")
    head: Literal["frozen", "unfrozen"] = Field(
        "frozen", description="Whether a classification's head moves with the body."
    )
    l2: Annotated[tuple[Strength, ...], Field(min_length=1, max_length=30)] = Field(
        STRENGTHS,
        description="Strengths of the head's penalty l2/2 |W|^2, on features in one unit, their rms "
        "deviation. The validation rows choose among them.",
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="Of a text's tokens, for masked-lm.")
    trace_probes: int = Field(10, ge=0, le=1000, description="Of Hutchinson's tr(H); 0: none.")
    m: int | None = Field(
        None, ge=2, le=10**9, description="Rows to come, for m K + llc log m; null: as many as n."
    )
    precision: Precision = Field("fp32", description="auto: bf16 where the device is fast in it.")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """The preset's values for what was left out; of radius and localisation the one that was given."""
        if not isinstance(given, dict):
            return given
        filled = PAPER | given if given.get("preset") == "paper" else dict(given)
        if "localisation" not in given and given.get("radius") is not None:
            filled["localisation"] = None
        if "controlled" not in given and filled.get("precondition") is not None:
            filled["controlled"] = False
        if "radius" not in given and filled.get("localisation") is not None:
            filled["radius"] = None
        return filled

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_fits(self)
        return self

    @property
    def strengths(self) -> list[float]:
        """Strong to weak, each once."""
        return sorted(set(self.l2), reverse=True)

    def features(self) -> FeatureSpec:
        """What the head is trained on: the very rows of the chains, and as many validation rows at most."""
        return FeatureSpec(max_tokens=self.max_tokens, max_rows=self.rows, precision=self.precision)

    def spec(self, head: LinearHead | None, seed: int) -> ChainSpec:
        """What to ask the workbench for."""
        return ChainSpec(
            objective=self.objective,
            head=head,
            most_rows=self.rows,
            max_tokens=self.max_tokens,
            beta=self.beta,
            localisation=self.localisation,
            radius=10.0 if self.radius is None else self.radius,
            scheme=self.scheme,
            step=self.step,
            precondition=self.precondition,
            controlled=self.controlled,
            chains=self.chains,
            draws=self.draws,
            burn_in=self.burn_in,
            batch_rows=self.batch_rows,
            moves_head=self.head == "unfrozen",
            trace_probes=self.trace_probes,
            mask_share=self.mask_share,
            precision=self.precision,
            seed=seed,
        )


def check_fits(params: FreeEnergyParams) -> None:
    """Raise ValueError, a sentence, where the parameters contradict each other."""
    radius, localisation = params.radius, params.localisation
    if (radius is None) == (localisation is None):
        both = (
            "both are null" if radius is None else f"radius is {radius:g} and localisation {localisation:g}"
        )
        raise ValueError(
            f"One of radius and localisation says how far the chains may go, and {both}: give one."
        )
    if params.precondition is not None and params.scheme != "euler":
        raise ValueError(
            f"precondition {params.precondition:g} is for scheme euler, and the scheme is {params.scheme}: "
            "say scheme: euler, or leave precondition out."
        )
    if params.precondition is not None and params.controlled:
        raise ValueError(
            f"precondition {params.precondition:g} takes batches as they are: leave controlled out, or say "
            "false."
        )
    if params.preset == "converged" and params.chains < FEWEST_CHAINS:
        raise ValueError(
            f"{params.chains} chains cannot tell whether they have converged: ask for {FEWEST_CHAINS} or "
            "more, or for preset: paper, whose score is no evidence."
        )
    if params.head == "unfrozen" and params.objective != "classification":
        raise ValueError(
            f"The head of {params.objective} stays frozen: leave head out, or say objective: classification."
        )


def folded(head: Any, axes: Axes, classes: Int[np.ndarray, "k"], count: int) -> LinearHead:
    """A head on principal axes as one on the features themselves, of `count` classes.

    Args:
        head: a `headstart.logistic.Head` of the k classes that have train rows.
        axes: those it was fitted on.
        classes: the number of each of the k.
    """
    turned = axes.turn.astype(np.float64) @ head.weights.T  # (d, k)
    weights, bias = np.zeros((len(turned), count)), np.full(count, UNSEEN)
    weights[:, classes] = turned
    bias[classes] = head.bias - axes.centre.astype(np.float64) @ turned
    return LinearHead(weights=weights.astype(np.float32), bias=bias.astype(np.float32))


def trained_head(bench: Workbench, params: FreeEnergyParams) -> tuple[LinearHead, dict[str, Any]]:
    """The head of a classification, on pooled features, and what there is to tell of it.

    Raises NotApplicable for a regression, and for train rows that are few or of one class.
    """
    features = None if bench.target.task == "regression" else bench.features(params.features())
    if features is None or features.classes is None:
        raise NotApplicable(
            "The free energy of a classification reads classes, and the target is a regression.",
            "Ask for objective masked-lm or causal-lm, which read texts alone, or name a target of classes.",
        )
    bench.report(0.0, "features")
    train, validation = features.rows("train"), features.rows("validation")
    seen, codes = np.unique(train.labels, return_inverse=True)
    check_rows(len(train.labels))
    if len(seen) < 2:
        raise NotApplicable(
            f"A head tells classes apart, and all {len(codes)} train rows read are of one class.",
            "Ask for more rows, for objective masked-lm or causal-lm, or for another target.",
        )
    number = np.full(len(features.classes), -1)
    number[seen] = np.arange(len(seen))
    x = finite_features(train, LAST)
    axes = principal_axes(x, standardised=False)
    bench.report(0.0, "head")
    choice = choose_head(
        Part(z=axes.of(x), y=codes),
        Part(z=axes.of(finite_features(validation, LAST)), y=number[validation.labels]),
        axes.variance,
        params.strengths,
        by_loss=True,
    )
    head = folded(choice.head, axes, seen, len(features.classes))
    return head, _told_of_head(choice, params, head, x, train.labels)


def _told_of_head(
    choice: Choice,
    params: FreeEnergyParams,
    head: LinearHead,
    x: Float32[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
) -> dict[str, Any]:
    said = (x @ head.weights + head.bias).argmax(axis=1)
    return {
        "kind": "trained",
        "moves": params.head == "unfrozen",
        "classes": len(head.bias),
        "l2": choice.l2,
        "l2_at_end": choice.l2 in (params.strengths[0], params.strengths[-1]),
        "steps": choice.head.steps,
        "converged": choice.head.converged,
        "train_accuracy": float(np.mean(said == labels)),
        "validation_accuracy": choice.right,
        "validation_loss": choice.log_loss,
    }


def check_rows(n: int) -> None:
    """Raise NotApplicable for so few rows that log n, and so WBIC, means nothing."""
    if n < FEWEST_ROWS:
        raise NotApplicable(
            f"The free energy is of {FEWEST_ROWS} train rows or more, and the target has {n}.",
            "Name a target with more rows: POST /targets.",
        )


def run(bench: Workbench, params: FreeEnergyParams) -> Measurement:
    """Train the head where there is none, sample, judge, and tell.

    Raises NotApplicable where the chains of the preset "converged" have not converged, and as `trained_head`
    and the workbench do; NonFinite where a chain left the finite.
    """
    head, told = (None, None) if params.objective != "classification" else trained_head(bench, params)
    chains = bench.loss_chains(params.spec(head, bench.seed))
    check_rows(len(chains.centre))
    check_finite(chains)
    verdict = judge(chains, params.scheme)
    if params.preset == "converged" and not verdict.converged:
        raise NotApplicable(
            f"The chains have not converged, so there is no value. {' '.join(verdict.faults)} "
            f"({verdict.numbers}.)",
            verdict.remedy,
        )
    return measured(chains, verdict, params, told)


def measured(
    chains: Chains, verdict: Verdict, params: FreeEnergyParams, head: dict[str, Any] | None
) -> Measurement:
    """The score: the value, and in the details everything it is made of."""
    notes = notes_of(chains, verdict, params.scheme)
    if params.precondition is not None:
        notes.append("Preconditioned steps leave out the term of dG/dw: they settle near the posterior.")
    asked = {"preset", "objective", "scheme", "controlled", "chains", "draws", "burn_in", "batch_rows"}
    details = {
        **chains.facts,
        **params.model_dump(mode="json", include=asked),
        **({} if head is None else {"head": head}),
        **details_of(chains, verdict, params.m),
        "notes": notes,
    }
    return Measurement(
        value=details["wbic"]["value"],
        stderr=details["wbic"]["stderr"],
        rows_tested=len(chains.centre),
        details=details,
        quarantine=None if verdict.converged else "not_converged",
        quarantine_note=None if verdict.converged else " ".join(verdict.faults),
    )


METHOD = Method(
    name="free_energy",
    version="1",
    subject="checkpoint x target",
    unit="nats, of all rows read",
    range=(-np.inf, np.inf),
    higher_is_better=False,
    needs=("loss_chains", "features", "labelled rows"),
    source=Source(
        paper="Munn and Wei, Leveraging free energy, ICML 2025, arXiv 2410.05612",
        equation="WBIC = E[n L_n(w)] = n L_n(w*) + llc log n, at beta = 1 / log n",
    ),
    summary="WBIC of the local posterior around the checkpoint, by Langevin chains that have to converge.",
    params=FreeEnergyParams,
    run=run,
)
