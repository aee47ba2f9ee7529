"""What many of the admin application's tests begin with."""

from tests.support.admin_service import site
from tests.support.outboxes import house

__all__ = ["house", "site"]
