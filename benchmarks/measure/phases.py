"""Where the wall time of `svds` goes, by phases that a result tells."""

from __future__ import annotations

from jvpsvd import SVDResult

PHASES = ("products", "orthogonalisation", "projected problem", "vectors", "checks", "rest")


def seconds_by_phase(result: SVDResult, wall: float) -> dict[str, float]:
    """Return the seconds of every phase, which add up to the wall time.

    Args:
        result: Of the solve.
        wall: Seconds in all, measured around it; what no phase had is the rest.
    """
    seconds = {phase: result.seconds_by_phase.get(phase, 0.0) for phase in PHASES[:-1]}
    return {**seconds, "rest": max(0.0, wall - sum(seconds.values()))}
