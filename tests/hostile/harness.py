"""What every family shares: how many cases there are, how each is watched and counted, and how it may end."""

import faulthandler
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps

from hypothesis import HealthCheck, given, settings

from stylear.errors import StyleARError

FACTOR = float(os.environ.get("STYLEAR_HOSTILE_FACTOR", "1"))  # cases for each one in CI; see __main__.py
SECONDS = 120  # of the processor, after which a case hangs; none needs ten
WAIT = 900  # seconds on the clock, after which it waits for something that does not come
MORE_MEMORY = 1 << 30  # bytes by which a case may raise the peak of the process; the largest picture takes half

tally = Counter()  # of this process: "cases" tried, "faults" survived, and figures of load


class Hangs(BaseException):
    """A case that does not end; no Exception, so that no code under test takes it for a damaged file."""


def hostile(cases: int, **strategies) -> Callable:
    """A property test of so many cases: in CI always the same, elsewhere FACTOR times as many and new ones."""

    def decorate(test: Callable) -> Callable:
        @wraps(test)
        def watch(*args, **values) -> None:
            with case():
                test(*args, **values)

        chosen = settings(
            max_examples=max(1, int(cases * FACTOR)),
            derandomize=FACTOR <= 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        return chosen(given(**strategies)(watch))

    return decorate


@contextmanager
def case() -> Iterator[None]:
    """Count one case, and see that it ends and what memory it takes."""
    tally["cases"] += 1
    _forget_peak()
    before = _peak()
    with _alarm():
        yield
    grown = _peak() - before
    assert grown < MORE_MEMORY, f"this case took {grown >> 20} MiB"


def survived(faults: int) -> None:
    """Count faults that struck and after which everything was whole."""
    tally["faults"] += faults


def outcome(call: Callable, *args, errors: tuple[type[Exception], ...] = (StyleARError,), **options) -> object:
    """What a call returns, or the documented error it ends in, which says something; any other error goes through."""
    try:
        return call(*args, **options)
    except errors as error:
        assert len(str(error)) > 10 and "Traceback" not in str(error), f"no message for a person: {error!r}"
        return error


def failed(result: object) -> bool:
    """Whether an outcome is an error."""
    return isinstance(result, Exception)


@contextmanager
def _alarm() -> Iterator[None]:
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise Hangs(f"this case did not end within {SECONDS} seconds of work or {WAIT} of waiting")

    before = {kind: signal.signal(kind, ring) for kind in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    faulthandler.dump_traceback_later(WAIT + 60, exit=True, file=2)  # where no signal is heard, as within C
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _forget_peak() -> None:
    """Have the peak count from now on, on Linux; elsewhere it is that of all cases so far."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")


def _peak() -> int:
    """Bytes of memory that this process held at most; 0 where nothing tells."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
