"""The admin application's tests share one running machine API a test."""

from tests.support.admin_service import site

__all__ = ["site"]
