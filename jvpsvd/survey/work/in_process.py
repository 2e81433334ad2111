"""Tasks solved by this process, one after another; `ray_engine` has them solved by workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from jvpsvd.survey.spec.plan import RunPlan
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.rows import Row
from jvpsvd.survey.work.feed import prefetch, read_tasks
from jvpsvd.survey.work.photo_solver import Keep, PhotoSolver, SolvedTask
from jvpsvd.svd import Progress

_TASKS_AHEAD = 4


def solve_in_process(
    tasks: Sequence[Task],
    plan: RunPlan,
    memory: int | str | None,
    report: Callable[[Task, int, Progress | None], None],
    keep: Keep,
    begun: Callable[[Task], Sequence[Row]],
) -> Iterator[SolvedTask]:
    """Yield every task solved, shard by shard; the next ones are read and decoded meanwhile.

    Args:
        tasks: What to solve.
        plan: The run.
        memory: Budget of one solve.
        report: Called with the task and the index of the depth at work, and how far its solve is.
        keep: Stores the depths of a long task that are done.
        begun: Returns what a call before has kept of a task.
    """
    solver = PhotoSolver(plan.model, plan.identity, device=plan.device, memory=memory)
    decoded = (solver.decode(task, photos) for task, photos in read_tasks(tasks, plan.shards))
    for one in prefetch(decoded, _TASKS_AHEAD):
        yield solver.solve(one, partial(report, one.task), keep, begun(one.task))
