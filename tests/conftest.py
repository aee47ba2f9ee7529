"""Fixtures of the real servers that tests run on; properties are tested without a clock beside them."""

import signal

import hypothesis

pytest_plugins = ["tests.support.postgres", "tests.support.valkey", "tests.support.pki", "tests.support.sandbox"]

# How long an example takes says nothing on a machine that does other things too; speed belongs to the benches.
hypothesis.settings.register_profile("unhurried", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")

# A shell that starts a suite in the background has it ignore Ctrl-C, and the processes under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
