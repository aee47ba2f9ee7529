"""What the contenders and cases of the comparison are called, in tables, charts and targets."""

OURS = "ours, mutual TLS"
OIDC = "oidc-provider, plain HTTP"
QUART = "Quart-Trio, plain HTTP"
NGINX = "nginx constant, mutual TLS"
COLD = "ours, tokens never seen"
SIGNED = "ours, signed answers"
BATCHES = "ours, decisions in batches of 100"
