"""Integrals of polynomials through given nodes, for solvers that integrate what they have extrapolated."""

from functools import cache

import torch
from torch import Tensor


@cache
def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), exact for polynomials up to degree 2 count − 1 (Golub & Welsch 1969): float64."""
    k = torch.arange(1, count, dtype=torch.float64)
    beta = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """L_j(at), the polynomial that is 1 at node j and 0 at the others: [nodes, at]."""
    rows = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        rows.append(((at[None, :] - others[:, None]) / (node - others)[:, None]).prod(dim=0))
    return torch.stack(rows)
