"""What a task makes of hidden states: for `embed`, one vector a sequence."""

import torch
import torch.nn.functional as F

from inference.checkpoint import Pooling
from inference.packing import Layout, Run


def embed(hidden: torch.Tensor, runs: Layout, pooling: Pooling, *, normalise: bool) -> torch.Tensor:
    """
    Pool packed hidden states [tokens, hidden] to vectors [sequences, hidden], float32.

    Sums are taken in float32 whatever the model's dtype; `normalise` scales to L2 length 1.
    """
    pooled = torch.cat([_pool(hidden, run, pooling) for run in runs])
    return F.normalize(pooled, dim=1) if normalise else pooled


def _pool(hidden: torch.Tensor, run: Run, pooling: Pooling) -> torch.Tensor:
    block = torch.unflatten(hidden[run.rows].float(), 0, (run.count, run.length))  # [count, length, hidden]
    match pooling:
        case "mean":
            return block.mean(1)
        case "cls":
            return block[:, 0]
        case "max":
            return block.amax(1)
        case "last":
            return block[:, -1]
