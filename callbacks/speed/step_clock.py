"""How long training takes and how much of it is waiting for data, without stopping the device to ask."""

import time
from dataclasses import dataclass

import torch


@dataclass
class Spent:
    """Seconds of training: all of them and those between two batches."""

    seconds: float = 0.0
    waiting: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.waiting + other.waiting)


class StepClock:
    """Times steps, from the start of a batch to its end, and the gaps before them.

    What happens in a gap is fetching the next batch and moving it to the device, and little else: that is the wait for
    data. A gap with a validation or a checkpoint in it is told by `interrupt` and counts as nothing.

    On a CPU the gap is read from the clock. On a GPU the host runs ahead, and fetching costs nothing while the device
    is busy: two events around the gap say how long the device had nothing to do. They are read once they are past, so
    that nobody waits. The seconds are the host's there, too: over many steps it is as fast as the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._spent = Spent()
        self._gap_began: float | None = None
        self._step_began: float | None = None
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._gap_event: torch.cuda.Event | None = None

    def batch_starts(self) -> None:
        now = time.perf_counter()
        if self._gap_began is not None:
            gap = now - self._gap_began
            self._spent.seconds += gap
            if self._gap_event is not None:
                self._gaps.append((self._gap_event, _event()))
            elif not self._gpu:
                self._spent.waiting += gap
        self._step_began = now

    def batch_ends(self) -> None:
        now = time.perf_counter()
        if self._step_began is not None:
            self._spent.seconds += now - self._step_began
        self.gap_starts()

    def gap_starts(self) -> None:
        """From here on the next batch is awaited."""
        self._gap_began = time.perf_counter()
        self._gap_event = _event() if self._gpu else None

    def interrupt(self) -> None:
        """Something else than training happens before the next batch."""
        self._gap_began = self._gap_event = None

    def take(self) -> Spent:
        """What was spent since the last call."""
        while self._gaps and self._gaps[0][1].query():
            ended, started = self._gaps.pop(0)
            self._spent.waiting += 1e-3 * ended.elapsed_time(started)
        spent, self._spent = self._spent, Spent()
        return spent


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
