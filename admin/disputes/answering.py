"""By when an ATP answers a dispute (DISP-06): so many working days after it was raised, at the close of business.

The day on which it is raised is not counted. What is raised after the close of business, or on a day that is no working
day, is taken as raised on the next one (docs/decisions/0031). Pure; clock time is London's, whatever the season.
"""

from datetime import datetime, time
from typing import Final

import msgspec

from admin.working_days import WorkingDays
from engine.clock import UnixTime
from engine.consent.windows import LONDON

CLOSES: Final = time(17)  # of business, in London; the clocks never change at that hour


class AnswerTerm(msgspec.Struct, frozen=True):
    """How long an ATP may take. working_days: ten unless settings say otherwise."""

    working_days: int = 10
    calendar: WorkingDays = WorkingDays()

    def respond_by(self, raised_at: UnixTime) -> UnixTime:
        """The last moment at which an answer is in time: 17:00 in London, in whole seconds since 1970."""
        raised = datetime.fromtimestamp(raised_at, LONDON)
        waits = raised.time() > CLOSES
        first = self.calendar.after(raised.date(), 1) if waits else self.calendar.not_before(raised.date())
        last = self.calendar.after(first, self.working_days)
        return UnixTime(int(datetime.combine(last, CLOSES, LONDON).timestamp()))
