"""Who goes on, who waits, who dies: coroutines of processes that are stopped at each of their steps."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.unit.routing_model import invariants
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import Blocked, Database, Deadlock, Step
from tests.unit.routing_model.invariants import Broken
from tests.unit.routing_model.rows import Letter
from tests.unit.routing_model.trace import Trace


@dataclass(eq=False, slots=True)
class Task:
    """Something that a process is doing.

    `next`: the step that comes when it goes on, or the lock that it waits for. `move`: the one that began it.
    """

    owner: str
    role: str
    steps: Coroutine[Any, Any, None]
    next: Step | Blocked
    move: int


@dataclass(slots=True)
class Scheduler:
    """One step of one task at a time. `forgiving`: a deadlock ends one of its transactions, and is no failure.

    `letters`: all dead letters that there ever were, as they were last.
    """

    db: Database
    chance: Chance
    forgiving: bool
    trace: Trace = field(default_factory=Trace)
    tasks: list[Task] = field(default_factory=list)
    letters: dict[Hashable, Letter] = field(default_factory=dict)

    def begin(self, owner: str, role: str, steps: Coroutine[Any, Any, None], *about: object) -> None:
        """A process takes something up."""
        self.tasks.append(Task(owner, role, steps, Step(f"begin to {role}", about), self.chance.move))

    def is_busy(self, owner: str, role: str) -> bool:
        """Whether a process is doing this."""
        return any((task.owner, task.role) == (owner, role) for task in self.tasks)

    def count(self, role: str) -> int:
        """How many are doing this."""
        return sum(task.role == role for task in self.tasks)

    def advance(self) -> None:
        """One step of whoever does not wait."""
        free = [task for task in self.tasks if self._may_go_on(task)]
        if free:
            self._go_on(self.pick(free))
        elif self.tasks:
            self._break_deadlock()

    def pick(self, tasks: Sequence[Task]) -> Task:
        """One of these, as chance wills."""
        return max(tasks, key=lambda task: self.chance.weight(task.move))

    def advance_all(self) -> None:
        """One step of everybody, in turn."""
        before = list(self.tasks)
        free = [task for task in before if self._may_go_on(task)]
        for task in free:
            if self._may_go_on(task):
                self._go_on(task)
        if before and not free:
            self._break_deadlock()

    def complete(self) -> None:
        """Until nobody does anything any more."""
        while self.tasks:
            self.advance_all()

    def kill(self, owner: str) -> None:
        """A process dies where it stands: its transactions are rolled back."""
        self.trace.add(owner, "DIES, before it could", *(task.next for task in self.tasks if task.owner == owner))
        for task in [task for task in self.tasks if task.owner == owner]:
            task.steps.close()
            self.tasks.remove(task)

    def close(self) -> None:
        """End all coroutines."""
        for task in self.tasks:
            task.steps.close()

    def _may_go_on(self, task: Task) -> bool:
        return isinstance(task.next, Step) or task.next.key not in self.db.locks

    def _go_on(self, task: Task) -> None:
        if isinstance(task.next, Step):
            self.trace.add(task.owner, task.next.name, *task.next.about)
        self._resume(task, lambda: task.steps.send(None))

    def _resume(self, task: Task, how: Callable[[], Step | Blocked]) -> None:
        try:
            task.next = how()
        except StopIteration:
            self.tasks.remove(task)
        else:
            if isinstance(task.next, Blocked):
                self.trace.add(task.owner, "has to wait for", *task.next.key)
        self._look_at_commit()

    def _look_at_commit(self) -> None:
        changes, self.db.changes = self.db.changes, []
        if changes:
            self.trace.add("  ", "committed:", *changes)
            self.letters |= {
                one.key[1]: one.after for one in changes if one.key[0] == "letter" and one.after is not None
            }
            invariants.check_commit(self.db, changes)

    def _break_deadlock(self) -> None:
        if not self.forgiving:
            raise Broken("deadlock")
        task = self.pick(self.tasks)
        self._resume(task, lambda: task.steps.throw(Deadlock()))
