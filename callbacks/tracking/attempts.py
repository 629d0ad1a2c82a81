"""What a run can do without: said once where it fails, and gone on without."""

from collections.abc import Callable
from typing import Any

from fewstep.files.secrets import without_secrets


class Attempts:
    """attempts(what, action): the result of action(), or None after one line, the first time that a `what` fails.

    Args:
        who: the tracker that the line names.
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self._said: set[str] = set()

    def __call__(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # logging must never stop a run, whatever the library raises
            if what not in self._said:
                self._said.add(what)
                print(f"{self.who}: {what} failed ({first_line(error)}); the run goes on without it.", flush=True)
            return None


def first_line(error: Exception) -> str:
    """What went wrong, short and without secrets."""
    return without_secrets(str(error) or type(error).__name__).split("\n")[0].split(". ")[0][:120]
