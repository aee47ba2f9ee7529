"""Every metric of an engine process, by name, with its help. Children are made once and kept.

Labels are small closed sets; no client, consent or token is ever a label. Whether values live in this process or
in files shared with the supervisor was decided before this import (`metric_files.prepare`).
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCIES: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

ANSWERED: Final = Counter("ccs_http_answers", "HTTP answers of the introspection listener.", ["status"])
HANDLING: Final = Histogram(
    "ccs_http_handling_seconds", "Seconds a handler took; one request in eight is timed.", buckets=_LATENCIES
)
CONNECTIONS: Final = Gauge(
    "ccs_connections", "Open connections of the introspection listener.", multiprocess_mode="livesum"
)
ACCEPTED: Final = Counter("ccs_connections_accepted", "Connections accepted.")
HANDSHAKES_FAILED: Final = Counter("ccs_handshakes_failed", "TLS handshakes that failed.")
OVERDUE: Final = Counter("ccs_connections_overdue", "Connections cut by a deadline.")
SHED: Final = Counter("ccs_requests_shed", "Requests answered 503 because a worker had too much to do.")
TURNED_AWAY: Final = Counter("ccs_connections_turned_away", "Connections beyond a participant's number.")
HANDLER_ERRORS: Final = Counter("ccs_handler_errors", "Requests answered 500 because a handler raised.")

ANSWER_KEY_UNTIL: Final = Gauge(
    "ccs_answer_key_published_until_timestamp_seconds",
    "Until when the issuer publishes the node's newest answer key; 0 while it does not.",
    multiprocess_mode="livemax",
)
OUTCOMES: Final = Counter("ccs_introspections", "Introspections by outcome.", ["outcome"])
EVALUATIONS: Final = Counter("ccs_evaluations", "Items of access evaluations by outcome.", ["outcome"])
SECURITY_EVENTS: Final = Counter("ccs_security_events", "Security events by kind.", ["kind"])
TOKENS_REMEMBERED: Final = Gauge(
    "ccs_tokens_remembered", "Verified tokens remembered by workers.", multiprocess_mode="livesum"
)
SAID_AGAIN: Final = Counter("ccs_answers_said_again", "Active answers whose decision still held and was not repeated.")
LAST_KNOWN: Final = Counter("ccs_answers_last_known", "Answers given in the state last_known, whole batches as one.")
MEMO_LOOKUPS: Final = Counter("ccs_token_memo_lookups", "Look-ups of verified tokens, by result.", ["result"])

RESIDENT: Final = Gauge("ccs_resident_bytes", "Resident memory of one process.", ["role"], multiprocess_mode="liveall")
CPU_SECONDS: Final = Counter("ccs_cpu_seconds", "CPU time used, user and system.", ["role"])
APPLIED: Final = Gauge("ccs_feed_applied_position", "Feed position the replica holds.", multiprocess_mode="livemax")
HEAD: Final = Gauge("ccs_feed_head_position", "Highest feed position heard of.", multiprocess_mode="livemax")
SILENCE: Final = Gauge(
    "ccs_feed_silence_seconds", "Seconds since the newest fulfilled question was asked.", multiprocess_mode="livemax"
)
WAY: Final = Gauge("ccs_feed_way", "1 for the way by which answers come.", ["way"], multiprocess_mode="livemax")
HEALED: Final = Counter("ccs_feed_gaps_healed", "Gaps in the feed that were closed over HTTPS.")
SNAPSHOTS: Final = Counter("ccs_feed_snapshots", "Snapshots that became the replica.")
FORGED: Final = Counter("ccs_feed_forged", "Entries, answers and records in Redis that failed their check.")
