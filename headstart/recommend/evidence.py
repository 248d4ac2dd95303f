"""The evidence of one family as arrays: what a posterior is fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.methods import METHODS

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

FINETUNE = "finetune"
LINEAR_PROBE = "linear_probe"
FREE_ENERGY = "free_energy"
# A probe reads the frozen body's features; a method that does not is no covariate of a gain. Most take one
# forward pass and no more: their cost is told by that of a linear probe.
ONE_PASS = tuple(sorted(name for name, method in METHODS.items() if method.needs[:1] == ("features",)))
PROBES = (*ONE_PASS, *sorted(name for name, method in METHODS.items() if "features" in method.needs[1:]))
LOWER_IS_BETTER = frozenset(name for name in PROBES if not METHODS[name].higher_is_better)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnergyParts:
    """What the free energies in force say beside their value, a row each. A missing number is NaN.

    They are no covariates: `headstart.recommend.predictors` tells what each of them is worth.
    """

    checkpoint: Int[np.ndarray, "E"]  # position in the checkpoints
    target: Int[np.ndarray, "E"]  # position in the targets
    protocol: Int[np.ndarray, "E"]  # as `probe_protocol`
    loss: Float[np.ndarray, "E"]  # of the checkpoint itself, nats a row
    trace: Float[np.ndarray, "E"]  # of the Hessian of that loss
    llc: Float[np.ndarray, "E"]  # local learning coefficient


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyEvidence:
    """The scores in force of one family, in columns. Nothing in it is sorted but the catalogue.

    C checkpoints (ascending id), T targets (ascending id), F finetune scores, P probe scores of the
    methods in PROBES. Values are in the unit of the method (0..1 for accuracies); a missing number is NaN.
    """

    family: str
    evidence_version: int
    checkpoint_ids: Int[np.ndarray, "C"]
    checkpoint_names: tuple[str, ...]
    vanilla: int | None  # position in the checkpoints
    parameters: Float[np.ndarray, "C"]  # how many, above 0
    layers: Float[np.ndarray, "C"]  # hidden layers, 0 or more
    classification: Float[np.ndarray, "C"]  # 1.0: it has a classification head, 0.0: it has none
    modified: Float[np.ndarray, "C"]  # seconds since the epoch, above 0: last modified, as its source says
    target_ids: Int[np.ndarray, "T"]
    target_names: tuple[str, ...]
    target_rows: Float[np.ndarray, "T"]  # size of the test split, NaN when unknown

    # finetune scores, vanilla runs included
    checkpoint: Int[np.ndarray, "F"]  # position in the checkpoints
    target: Int[np.ndarray, "F"]  # position in the targets
    protocol: Int[np.ndarray, "F"]  # scores of one protocol (method version + params) share a code
    seed: Int[np.ndarray, "F"]
    value: Float[np.ndarray, "F"]
    stderr: Float[np.ndarray, "F"]
    rows_tested: Float[np.ndarray, "F"]
    created: Float[np.ndarray, "F"]  # seconds since the epoch

    # probe scores, vanilla included
    probe_methods: tuple[str, ...]
    probed_checkpoint: Int[np.ndarray, "P"]  # position in the checkpoints
    probed_target: Int[np.ndarray, "P"]  # position in the targets
    probe_method: Int[np.ndarray, "P"]  # position in the probe methods
    probe_protocol: Int[np.ndarray, "P"]  # as `protocol`, in codes of its own
    probe_value: Float[np.ndarray, "P"]
    probe_stderr: Float[np.ndarray, "P"]
    probe_created: Float[np.ndarray, "P"]

    # beside them, for people: no fit reads it
    probe_protocols: tuple[tuple[str, str], ...] = ()  # method version and digest of the params, by code
    energy_parts: EnergyParts | None = None

    def protocol_named(self, code: int) -> tuple[str, str]:
        """Method version and digest of the params of a probe's protocol; empty where nobody told."""
        return self.probe_protocols[code] if code < len(self.probe_protocols) else ("", "")
