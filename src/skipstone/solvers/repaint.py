"""RePaint's resampling: rows that are run several times, with noise that leads up again in between."""

import torch

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.solvers.table import StepTable


@checked
def resampled(process: ForwardProcess, table: StepTable, jump_n_sample: int, jump_length: int = 1) -> StepTable:
    """The table in which every jump_length rows are run jump_n_sample times (Lugmayr et al. 2022, algorithm 1).

    So pixels that are painted in come to agree with those that are known (`engine.sample`, known). After rows that led
    from t down to p, noise leads up again:

        x_t = √(ᾱ_t/ᾱ_p) x_p + √(1−ᾱ_t/ᾱ_p) z

    It asks no network, so it is part of the row that reached p, which then lands on t. Rows are counted from the one
    before the last: the step to clean data is taken once, and so are rows at the beginning that do not fill a jump.

    process:       of the table.
    table:         of one-step rows, each of which asks the network.
    jump_n_sample: how often, at least 1, which changes nothing. The paper takes 10.
    jump_length:   rows, at least 1. The paper takes 10, of 250.
    Raises ValueError for others.
    """
    for name, value in (("jump_n_sample", jump_n_sample), ("jump_length", jump_length)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    chained = torch.equal(table.p[:-1], table.t[1:]) and torch.equal(table.f, table.t)
    if table.c.numel() or not chained or table.guided or not bool(table.evaluated.all()):
        raise ValueError("resampling needs a table of one-step rows: use solver=ddim or probability_flow.")
    inner = int((table.p > -1).sum())
    order, up = list(range(inner % jump_length)), []  # the rows, and which of the new ones lead up to which step
    for begin in range(inner % jump_length, inner, jump_length):
        for turn in range(jump_n_sample):
            order += range(begin, begin + jump_length)
            if turn < jump_n_sample - 1:
                up.append((len(order) - 1, begin))
    order += range(inner, len(table.t))
    table, original = table.rows(order), table
    if up:
        last, begin = torch.tensor(up).T
        log_ratio = process.log_alpha_bar(original.t[begin]) - process.log_alpha_bar(table.p[last])  # log(ᾱ_t/ᾱ_p)
        for column in (table.a, table.b):
            column[last] *= torch.exp(0.5 * log_ratio)
        table.s[last] = torch.sqrt(log_ratio.exp() * table.s[last] ** 2 - torch.expm1(log_ratio))
        table.p[last] = original.t[begin]
    return table
