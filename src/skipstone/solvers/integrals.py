"""Integrals of polynomials through given nodes, for solvers that integrate what they have extrapolated."""

from functools import cache

import torch
from torch import Tensor

from skipstone.process import ForwardProcess


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


def over_r(process: ForwardProcess, start: Tensor, stop: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """∫ f dr from the time `start` to `stop` as Σ f(t) dr, with r = √((1−ᾱ)/ᾱ): (t, dr), float64 [M].

    start, stop: real times above −1, float64, in either order.
    nodes:       of the quadrature between two kinks of the process.
    """
    low, high = sorted((start, stop))
    edges = torch.cat([low[None], process.kinks(float(low), float(high)), high[None]])
    u = torch.sqrt(edges + 1)  # in which r is smooth at clean data, too, where log ᾱ is linear in t = u² − 1
    theta, weights = gauss_legendre(nodes)
    at = u[:-1, None] + u.diff()[:, None] * theta
    t = torch.maximum(at**2 - 1, edges[:-1, None])  # rounding leads nowhere beyond the edges
    t = torch.minimum(t, edges[1:, None])
    y = -process.log_alpha_bar(t)  # r² = e^y − 1
    dr_dt = -process.slope(t) * torch.exp(y) / (2 * torch.sqrt(torch.expm1(y)))
    dr = dr_dt * 2 * at * u.diff()[:, None] * weights
    return t.flatten(), dr.flatten() * torch.sign(stop - start)
