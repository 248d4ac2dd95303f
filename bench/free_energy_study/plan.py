"""What is pretrained: three sweeps around one setting, three seeds, two ways to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STEPS = 600  # of every setting, where all train equally long
EQUAL_LOSS, MOST_STEPS, LOOK_EVERY = 0.02, 3000, 20  # nats, where all train to the same loss
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Of plain SGD."""

    sweep: str  # what differs from the base
    rate: float = 0.2
    batch: int = 64
    momentum: float = 0.0

    @property
    def noise(self) -> float:
        """The noise scale of SGD, rate / (batch (1 - momentum)) (Smith and Le, arXiv 1710.06451)."""
        return self.rate / (self.batch * (1 - self.momentum))

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self) | {"noise": self.noise}


SETTINGS = (
    Setting(sweep="base"),
    *(Setting(sweep="learning rate", rate=rate) for rate in (0.05, 0.1, 0.4, 0.8, 1.6, 3.2)),
    *(Setting(sweep="batch", batch=batch) for batch in (8, 16, 32, 128, 256)),
    *(Setting(sweep="momentum", momentum=momentum) for momentum in (0.3, 0.5, 0.7, 0.8, 0.9)),
)
FEWER = tuple(
    one
    for one in SETTINGS
    if one.rate in (0.05, 0.2, 0.8) and one.batch in (8, 16, 32, 64) and one.momentum in (0.0, 0.5, 0.8, 0.9)
)
QUICK = tuple(one for one in SETTINGS if one.rate == 0.05 or one.batch == 16 or one.momentum == 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to stop, on one set."""

    name: str
    title: str
    data: str
    until: float | None  # train loss in nats; None: after STEPS
    full: bool = False  # every radius and the published chain as well
    settings: tuple[Setting, ...] = SETTINGS


ARMS = (
    Arm(name="steps", title=f"{STEPS} steps each", data="mnist", until=None, full=True),
    Arm(name="loss", title=f"train loss {EQUAL_LOSS} each", data="mnist", until=EQUAL_LOSS),
    Arm(
        name="digits",
        title=f"8 x 8 digits, train loss {EQUAL_LOSS} each",
        data="digits",
        until=EQUAL_LOSS,
        settings=FEWER,
    ),
)
