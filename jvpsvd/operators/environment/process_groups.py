"""One Jacobian over several processes: each multiplies some columns of every block."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jvpsvd.errors import ArgumentError, ModelError, RankError

_FINE, _FAILED = 0, 1


def multiply_over_ranks(
    multiply: Callable[[Tensor], Tensor],
    rows: Tensor,
    size: int,
    transposed: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Return multiply(rows), (b, size), with the rows divided among the ranks of the group.

    Every rank of the group must call this with the same block, and all get the same numbers.

    Args:
        multiply: Maps (c, …) rows to (c, size).
        rows: (b, …), the same on every rank.
        size: The length of an image.
        transposed: Whether the product is that with J'; the ranks must agree on it.
        group: The ranks; None multiplies all rows here.

    Raises:
        RankError: If the ranks do not compute the same product, or one of them failed.
    """
    if group is None:
        return multiply(rows)
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    width = rows.shape[0]
    _refuse_disagreement(rows, transposed, group)
    share = -(-width // ranks)
    own = rows[rank * share : (rank + 1) * share]
    part = rows.new_zeros(share, size)
    error: Exception | None = None
    try:
        if own.shape[0]:
            part[: own.shape[0]] = multiply(own).reshape(own.shape[0], size)
    except Exception as failure:  # raised after the others know of it, or they wait for ever
        error = failure
    state = torch.tensor(_FAILED if error else _FINE, device=rows.device)
    dist.all_reduce(state, op=dist.ReduceOp.SUM, group=group)
    if error is not None:
        raise error
    if int(state) != _FINE:
        raise RankError(f"a product failed on {int(state)} other rank(s); see what they raised")
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part, group=group)
    return torch.cat(parts)[:width]


def _refuse_disagreement(rows: Tensor, transposed: bool, group: dist.ProcessGroup) -> None:
    request = torch.tensor(
        [transposed, rows.shape[0], float(rows.double().sum())],
        dtype=torch.float64,
        device=rows.device,
    )
    least, greatest = request.clone(), request.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN, group=group)
    dist.all_reduce(greatest, op=dist.ReduceOp.MAX, group=group)
    scale = 1e-3 * max(1.0, float(rows.double().abs().sum()))
    if bool((least[:2] != greatest[:2]).any()) or float(greatest[2] - least[2]) > scale:
        raise RankError(
            "the ranks of the group were asked for different products; run the same calls with the "
            "same point, seed and options on every rank"
        )


def refuse_tensor_parallel(model: nn.Module) -> None:
    """Check that no layer is spread over ranks in a way that has no forward mode.

    Parameters sharded by FSDP2 are gathered before a layer runs, and are fine.

    Raises:
        ModelError: Naming the first parameter that takes part in a distributed product.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    gathered = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for parameter in module.parameters()
    }
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            continue
        spread = sum(not placement.is_replicate() for placement in parameter.placements)
        if spread > (1 if id(parameter) in gathered else 0) or id(parameter) not in gathered:
            raise ModelError(
                f"parameter '{name}' is a distributed tensor ({parameter.placements}): tensor "
                "parallelism has no forward mode in torch; use FSDP2 (fully_shard), or a replica "
                "on every rank and group="
            )


def check_group(group: object) -> dist.ProcessGroup | None:
    """Return the group, or None for no group.

    Raises:
        ArgumentError: If it is something else.
    """
    if group is None:
        return None
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise ArgumentError(
            f"group is a {type(group).__name__}; give a torch.distributed process group, such as "
            "torch.distributed.group.WORLD after init_process_group"
        )
    return group
