"""Who takes part: the forms by which EDPs and ATPs are registered, with limits that let a load through."""

from base64 import b64encode
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.chaos.settings import ATPS, DATASET, EDPS, GUARDS, Places

LIMITS = {"max_connections": 10_000, "max_requests_per_second": 100_000}


def registrations(places: Places) -> list[dict[str, Any]]:
    """The forms of all EDPs and ATPs; their certificates are there."""
    edps = [
        {
            **_form(places, edp.client_id, "edp"),
            "organisation": {"name": edp.client_id, "locations": [f"https://api.{edp.client_id}.example/hh"]},
            "datasets": [DATASET],
            "answers": edp.answers,
            "handles_last_known": edp.handles_last_known,
            **LIMITS,
        }
        for edp in EDPS
    ]
    return [*edps, *({**_form(places, atp, "atp"), "organisation": {"name": atp}} for atp in ATPS)]


def _form(places: Places, client: str, role: str) -> dict[str, Any]:
    """An EDP's guard takes events under a certificate of its own."""
    names = [client, *(guard for guard, edp in GUARDS.items() if edp.client_id == client)]
    certificates = [b64encode(der_of(places, name)).decode() for name in names]
    return {"client_id": client, "role": role, "certificates": certificates}


def der_of(places: Places, name: str) -> bytes:
    """A certificate."""
    return x509.load_pem_x509_certificate((places.pki / f"{name}.pem").read_bytes()).public_bytes(Encoding.DER)
