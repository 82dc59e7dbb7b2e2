"""What only decorates never stops the work."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def decoration(what: str, *also: type[Exception]) -> Iterator[None]:
    """Leave `what` out, with a warning, where it fails. A full disk stops the work, because results go there next.

    also: kinds of OSError that do not stop it either.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, also):
            raise
        log.warning("%s is left out (%s: %s)", what, type(error).__name__, " ".join(str(error).split()))
