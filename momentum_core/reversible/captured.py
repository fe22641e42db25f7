"""Find what a block's graph needs a gradient for, beyond its own parameters and arguments."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from momentum_core.errors import ReversibilityError
from momentum_core.reversible.sharding import is_sharded, sharded_error


def check_captured(
    root: Node,
    block: nn.Module,
    known: Iterable[Tensor],
    where: str,
    *,
    position: GradientEdge | None = None,
) -> None:
    """Raise if the graph under `root` reaches a tensor that is neither `position` nor `known`.

    Such a tensor would silently get no gradient: it is used by the block, but neither its
    parameter nor an argument.

    Args:
        root: last node of the block's graph.
        block: the block, for the message.
        known: the block's parameters and differentiable arguments, and its input if that is not
            what `position` is for.
        where: run and block, for the message.
        position: where the block's input, which it may write into, hung in the graph before.

    Raises:
        ReversibilityError: a captured tensor needs a gradient.
    """
    known = tuple(known)
    leaves = {id(tensor) for tensor in known}
    borders = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    if position is not None:
        borders.add(position.node)
    seen = {root}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node in borders:
            continue
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in leaves:
            raise _captured_error(variable, block, where)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def edge_of(tensor: Tensor) -> GradientEdge | None:
    """Return where `tensor` hangs in its graph, or None if it needs no gradient."""
    if tensor.grad_fn is not None:
        return GradientEdge(tensor.grad_fn, tensor.output_nr)
    return get_gradient_edge(tensor) if tensor.requires_grad else None


def _captured_error(variable: Tensor, block: nn.Module, where: str) -> ReversibilityError:
    if is_sharded(variable):
        return sharded_error(where)
    kind = type(variable).__name__
    return ReversibilityError(
        f"{where}: {type(block).__qualname__} uses a {kind} of shape {tuple(variable.shape)} that "
        "needs a gradient but is neither its parameter nor an argument; pass it to the stack's "
        "forward as an argument, register it in the block, or detach it",
        code="captured_tensor",
    )
