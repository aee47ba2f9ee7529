"""What the supervisor itself has to say in `/metrics`: made from the node's status when it is asked for."""

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.telemetry.health import STATES, NodeStatus


def node_families(status: NodeStatus) -> list[Metric]:
    """Freshness, position, drain and the children's lives."""
    state = GaugeMetricFamily("ccs_node_state", "1 for the freshness state the node is in.", labels=["state"])
    for each in STATES:
        state.add_metric([each], float(each == status.state))
    up = GaugeMetricFamily("ccs_child_up", "1 while a child process runs and is ready.", labels=["child"])
    restarts = CounterMetricFamily("ccs_child_restarts", "Times a child process was started again.", labels=["child"])
    for child in status.children:
        up.add_metric([child.name], float(child.life == "running"))
        restarts.add_metric([child.name], child.restarts)
    draining = GaugeMetricFamily("ccs_node_draining", "1 while the node drains.", value=float(status.draining))
    as_of = GaugeMetricFamily(
        "ccs_node_as_of_timestamp_seconds", "When the newest answered question was asked.", value=float(status.as_of)
    )
    recovering = GaugeMetricFamily(
        "ccs_node_recovering",
        "1 while the ledger is recovering, so that no node is current.",
        value=float(bool(status.recovering_since)),
    )
    return [state, up, restarts, draining, as_of, recovering]
