"""What each way to save memory promises: the paper's table 1, with more rows and more ways.

Every cell of a way that can be installed is checked here; the others are cited.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from momentum_core.conversion import original_state_dict
from tests.benchmarks import property_checks as checks
from tests.benchmarks.findings import Claim, Finding, Table
from tests.benchmarks.networks import cifar_network
from tests.benchmarks.property_checks import Checked
from tests.benchmarks.reversible_systems import GAMMA, PUBLISHED_GAMMA, System, ours, systems


@dataclass(frozen=True, slots=True)
class Property:
    """A row."""

    name: str
    check: Callable[[System], Checked]
    figure: str
    """What the claim of our own column says that it measured."""

    at_most: float


PROPERTIES = (
    Property(
        "same parameters", checks.same_parameters, "share of a network's numbers that are lost", 0.0
    ),
    Property(
        "closed-form inverse",
        checks.closed_form_inverse,
        "evaluations of a block that its inverse takes",
        1.0,
    ),
    Property(
        "exact inverse",
        checks.exact_inverse,
        f"share of values that come back as other bits, {checks.EXACT_DEPTH} blocks",
        0.0,
    ),
    Property(
        "unconstrained training",
        checks.unconstrained_training,
        "relative error of gradients against stored activations, Lipschitz bounds above 1",
        0.0,
    ),
    Property(
        "drop-in for pretrained weights",
        checks.drop_in,
        "logits or gradients off, relative, ResNet-56 at the smallest gamma",
        checks.SAME,
    ),
    Property(
        "memory in depth",
        checks.memory_in_depth,
        "peak of {1} blocks over that of {0}".format(*checks.DEPTHS),
        1.1,
    ),
)

I_RESNET, I_REVNET, DR2NET, MEFT = "i-ResNet", "i-RevNet", "Dr2Net", "MEFT"
CITED: Mapping[str, tuple[str, ...]] = {
    I_RESNET: (
        "yes (cited: Sander, table 1)",
        "no (cited: Behrmann, algorithm 1: fixed-point iteration)",
        "no (cited: algorithm 1: up to a tolerance)",
        "no (cited: theorem 1: Lipschitz constants below 1)",
        "no (cited: theorem 1 binds the weights)",
        "flat (cited: Behrmann, abstract of version 1; an inverse takes 5 to 20 passes)",
    ),
    I_REVNET: (
        "no (cited: Sander, table 1)",
        "yes (cited: Jacobsen, abstract)",
        "not claimed (floats)",
        "yes (cited: Sander, table 1)",
        "no (cited: Jacobsen, abstract: an architecture of its own)",
        "not claimed",
    ),
    DR2NET: (
        "yes (cited: Zhao, figure 2)",
        "yes (cited: Zhao, abstract: reconstructed from the output)",
        "no (cited: Zhao, abstract: a precision that coefficients decide)",
        "yes (cited: Zhao, figure 2: any blocks)",
        "yes (cited: Zhao, figure 2: the original as alpha goes to 1, beta to 0)",
        "flat (cited: Zhao, abstract: activations are cleared)",
    ),
    MEFT: (
        "no (cited: Liao, abstract: adapters are added)",
        "yes (cited: Liao, abstract: recomputed)",
        "not claimed (floats)",
        "no (cited: Liao, figure 4: only adapters learn)",
        "yes (cited: Liao, abstract: the starting point is preserved)",
        "less (cited: Liao, abstract: up to 84 %)",
    ),
}
"""In the order of `PROPERTIES`."""

NOTE = (
    "Checked: run here, on chains of small residual functions and on a published ResNet-56. Cited: "
    "no package can be installed; Behrmann et al. 2019 (arXiv:1811.00995), Jacobsen et al. 2018 "
    "(arXiv:1802.07088), Zhao et al. 2024 (arXiv:2401.04105), Liao et al. 2023 (arXiv:2306.00477), "
    "Sander et al. 2021 (arXiv:2102.07870). The paper's table has the first, second and fourth "
    "row; it counts a solver that runs backwards as a closed form. RevNet is given x twice, with "
    "y1 + y2 - x as its output, since its halves would need functions of half the width. Chains: "
    f"momentumnet at gamma {PUBLISHED_GAMMA} (its own), this project at {GAMMA}, where it keeps a "
    "bit for each value and block. Drop-in: the best of several gammas, 0 included where it is "
    "taken, by logits and by gradients of their mean square, while memory is saved; at gamma 0 "
    "momentumnet's logits are right and its gradients are not. Cross-entropy in place of the mean "
    "square, on images that the network knows already, so that hardly any gradient is left: this "
    "project's gradients were 1.5 % off at gamma 1/4096 in an earlier run."
)


def run() -> Iterator[Finding]:
    """Check everything."""
    found: dict[str, list[Checked]] = {}
    with warnings.catch_warnings():
        # Of old packages about torch's newer ways.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        for system in systems():
            found[system.name] = [_checked(one, system) for one in PROPERTIES]
    yield _table({name: tuple(one.cell for one in answers) for name, answers in found.items()})
    for one, answer in zip(PROPERTIES, found[ours().name], strict=True):
        yield Claim(f"{one.name}: {one.figure}", answer.value, one.at_most)
    yield Claim("same parameters: names that are not the original's", _num_other_names(), 0)


def _checked(one: Property, system: System) -> Checked:
    try:
        return one.check(system)
    except Exception as error:
        if system.name == ours().name:
            raise
        reason = (str(error).splitlines() or [""])[0][:80]
        return Checked(f"fails: {type(error).__name__}: {reason}", math.nan)


def _table(checked: Mapping[str, tuple[str, ...]]) -> Table:
    columns = _in_order(checked)
    return Table(
        "properties",
        "What ways to train with little memory promise, and what was found",
        ("", *columns),
        tuple(
            (one.name, *(column[number] for column in columns.values()))
            for number, one in enumerate(PROPERTIES)
        ),
        note=NOTE,
    )


def _in_order(checked: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the columns as in the paper's table, then what came after it."""
    ode, revnet, momentum, checkpointing, own = checked
    order = (ode, I_RESNET, I_REVNET, revnet, momentum, DR2NET, MEFT, checkpointing, own)
    both = {**checked, **CITED}
    return {name: both[name] for name in order}


def _num_other_names() -> int:
    network = cifar_network(checks.NETWORK)
    converted = ours().converted(network, GAMMA)
    return len(network.state_dict().keys() ^ original_state_dict(converted).keys())
