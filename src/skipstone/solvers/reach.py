"""From a number of network evaluations to the tau that costs it."""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache

from skipstone.checked import checked, is_integer
from skipstone.process import ForwardProcess
from skipstone.schedules import Schedule
from skipstone.solvers.table import Solver


@checked
def reach(solver: Solver, schedule: Callable[..., Schedule], process: ForwardProcess, nfe: int) -> int:
    """The tau at which a sample costs exactly `nfe` network evaluations.

    Where several taus do, it is the smallest. Of a count, a larger one asks for steps that fall together; of a stride,
    a larger one leaves the gaps less even.

    solver:    whose tables count the evaluations. They must depend on how many steps are visited, not on which.
    schedule:  makes a schedule of a tau, called as schedule(tau=20): a class such as Exp, or a partial of LogSNR.
    process:   with the T steps that the schedule chooses from.
    nfe:       an integer of at least 1.

    Raises ValueError where no tau costs `nfe`, with the nearest below and above that can be reached.
    """
    if not is_integer(nfe) or nfe < 1:
        raise ValueError(f"nfe={nfe!r} is not allowed: nfe is an integer of at least 1.")
    num_steps = process.num_steps

    @cache
    def visits(tau: int) -> int:
        return len(schedule(tau=tau)(num_steps))

    @cache
    def cost(count: int) -> int:
        if count == 1 and not solver.to_data:
            return 0  # the step is start and end, and no table has no rows
        try:
            return solver.table(process, range(count)).nfe
        except ValueError:
            if count > 2:
                raise
            return 0  # too few steps for this solver, such as one whose first row asks no network

    counts = range(1, min(num_steps, nfe + 1) + 1)
    wanted = 1 + bisect_left(counts, nfe, key=cost)
    found = {cost(visits(tau)): tau for tau in sorted(_near(wanted, visits, num_steps), reverse=True)}
    if nfe in found:
        return found[nfe]
    below = max((other for other in found if 0 < other < nfe), default=None)
    above = min((other for other in found if other > nfe), default=None)
    nearest = [f"{other} (tau={found[other]})" for other in (below, above) if other is not None]
    raise ValueError(
        f"nfe={nfe} cannot be reached with schedule={schedule(tau=1).name} and solver={solver.name}: the nearest "
        f"{'are' if len(nearest) == 2 else 'is'} {' and '.join(nearest)}."
    )


def _near(wanted: int, visits: Callable[[int], int], num_steps: int) -> range:
    """The taus at which about so many steps are visited: all with one less, as many or one more, and their neighbours.

    The number of visited steps grows along the taus, but for LogSNR's, which sometimes falls back by one: so the search
    begins two steps below and ends at the third above. It goes from few steps to many, because few are cheap to count.
    """
    stride = visits(1) == num_steps  # and highest T−1
    taus = range(num_steps - 1, 0, -1) if stride else range(1, num_steps + 1)
    size = 1
    while size < len(taus) and visits(taus[size - 1]) < wanted + 3:
        size *= 2
    taus = taus[:size]
    wanted = min(wanted, visits(taus[-1]))  # where so many are never visited, the most that are
    first = bisect_left(taus, wanted - 2, key=visits)
    last = bisect_left(taus, wanted + 3, key=visits)
    return taus[max(0, first - 1) : last + 1]
