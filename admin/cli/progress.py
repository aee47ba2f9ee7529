"""A progress bar on standard error, where somebody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Bar = Callable[[str, int, int | None], None]  # what is being done, how far, of how much if that is known


@contextmanager
def bar(what: str = "", of: int | None = None, *, hidden: bool = False, stays: bool = False) -> Iterator[Bar]:
    """Show a bar until the context is left, or for good where it `stays`; nothing where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = hidden or not console.is_terminal
    with Progress(*columns, console=console, transient=not stays, disable=hidden) as progress:
        task = progress.add_task(what, total=of)
        yield lambda what, done, of: progress.update(task, description=what, completed=done, total=of)
