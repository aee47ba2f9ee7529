"""People, addresses and meter points of a sandbox: all made up, all drawn from one number, never anybody real.

The same number always gives the same person, so that a seed can be repeated. Telephone, birth date and the like are
not made: nobody needs them. Postcodes are of the area `ZZ`, which does not exist. Pure.
"""

import hashlib
from typing import Final

import msgspec

from engine.clock import UnixTime, format_utc
from engine.consent.energy_consent import TYPE
from engine.consent.meter_points import mpan_check_digit
from engine.consent.windows import midnight_before, months_after


def _words(text: str, between: str | None = None) -> list[str]:
    return text.split(between)


_FIRST: Final = _words(
    "Ada Alun Amara Anwen Arjun Beatrix Bronwen Callum Carys Chidi Clara Dafydd Deepa Donal Edie Eilidh Elif Emeka "
    "Fatima Fergus Freya Gareth Grace Hamish Harriet Ines Iona Ishaan Jasmin Joan Kwame Layla Leo Maeve Malik Maria "
    "Mhairi Mina Ngozi Niall Nadia Oisin Olive Oscar Priya Rhys Rosa Ruairi Sanjay Seren Sofia Tariq Teodor Una Vera "
    "Wilf Yasmin Yusuf Zara Zofia"
)
_LAST: Final = _words(
    "Abara Adeyemi Ahmed Ashdown Bain Barlow Begum Blackwood Bowen Cairns Carver Chowdhury Clegg Craddock Dalgleish "
    "Das Devlin Dunmore Eccles Ellis Farrow Fenwick Galbraith Gill Hargreave Hossain Ibbotson Innes Jankowski Kaur "
    "Keane Khan Lachlan Lewin Loxley MacRae Mistry Morgan Nolan Nowak Okafor Osei Pardew Patel Penrose Quigley "
    "Rahman Redfern Sato Shah Sutcliffe Tanner Thorne Underhill Vaughan Wadsworth Whitlock Yeo Young"
)
_STREETS: Final = _words(
    "Alder Grove;Beacon Rise;Canal Walk;Chapel Lane;Copper Street;Dovecote Close;Elm Terrace;Foundry Road;Gorse Hill;"
    "Harbour View;Ivy Mount;Juniper Way;Kiln Lane;Lantern Street;Mill Brow;Nettle Court;Orchard Place;Poplar Drive;"
    "Quarry Bank;Rowan Crescent;Sycamore Avenue;Tannery Row;Upper Green;Weaver Street",
    ";",
)
_TOWNS: Final = ["Amberwick", "Brackley", "Caerfelin", "Dunharrow", "Eastmere", "Glenfarrow", "Northquay", "Willowbeck"]
_PURPOSES: Final = (
    "Compare your tariff with others, using your half-hourly use",
    "Size solar panels and a battery for your home",
    "Show when running the heat pump costs least",
    "Find appliances that use more energy than they should",
)
_DISTRIBUTORS: Final = range(10, 24)  # the first two digits of a British MPAN core


class MadePerson(msgspec.Struct, frozen=True):
    """Somebody who does not exist. meter_point: a well-formed MPAN."""

    person_id: str
    name: str
    address: str
    meter_point: str
    draw: int  # more numbers of theirs, 0 … 2**64 - 1


def made_person(number: int) -> MadePerson:
    """The person of a number, 0 or above."""
    drawn = _Draw(number)
    name = f"{drawn.of(_FIRST)} {drawn.of(_LAST)}"
    street = f"{drawn.below(180) + 1} {drawn.of(_STREETS)}"
    address = (
        f"{street}, {drawn.of(_TOWNS)}, ZZ{drawn.below(90) + 10} {drawn.below(9) + 1}{drawn.letter()}{drawn.letter()}"
    )
    leading = f"{_DISTRIBUTORS[drawn.below(len(_DISTRIBUTORS))]}{drawn.below(10**10):010}"
    meter_point = f"mpan:{leading}{mpan_check_digit(leading)}"
    return MadePerson(f"made-{number}", name, address, meter_point, drawn.below(2**64))


def made_grant(number: int, *, atp: str, edp: str, dataset_id: str, now: UnixTime) -> bytes:
    """The JSON of a direct grant by the person of a number, as `forms.read_grant` takes it.

    Enduring, a year of history, expiring one to eleven months after `now`.
    """
    person = made_person(number)
    return msgspec.json.encode(
        {
            "client_id": atp,
            "edps": [edp],
            "authorization_details": {
                "type": TYPE,
                "dataset_id": dataset_id,
                "purpose": _PURPOSES[person.draw % len(_PURPOSES)],
                "access_mode": "enduring",
                "consent_expires_at": format_utc(months_after(now, 1 + person.draw % 11)),
                "data_from": format_utc(midnight_before(months_after(now, -12))),
                "meter_points": [person.meter_point],
                "atp_declaration": "atp-decl-1",
                "atp_reference": f"made-{number}",
            },
            "person": {
                "person_id": person.person_id,
                "name": person.name,
                "address": person.address,
                "moved_in": format_utc(months_after(now, -24 - person.draw % 120)),
            },
            "address_confirmed": True,
            "wording": "sandbox-1",
        }
    )


class _Draw:
    """Numbers drawn from a number: blake2b, 16 bytes at a time, so that neighbours have nothing in common."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._step = 0

    def below(self, bound: int) -> int:
        self._step += 1
        digest = hashlib.blake2b(f"{self._number}.{self._step}".encode(), digest_size=16).digest()
        return int.from_bytes(digest) % bound

    def of(self, choices: list[str]) -> str:
        return choices[self.below(len(choices))]

    def letter(self) -> str:
        return "ABDEFGHJLNPQRSTUWXYZ"[self.below(20)]
