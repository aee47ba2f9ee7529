"""Fixtures of the real servers that tests run on."""

pytest_plugins = ["tests.support.postgres", "tests.support.valkey", "tests.support.pki", "tests.support.sandbox"]
