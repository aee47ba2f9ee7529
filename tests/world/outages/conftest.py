"""One installation for the rows about Redis and the node, one on PostgreSQL for those about the ledger."""

from collections.abc import Iterator

import pytest

from tests.support.outages import Site
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="package")
def sqlite_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture(scope="package")
def postgres_site(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), postgres_server.new_database())
    yield site
    site.close()


@pytest.fixture
def site(sqlite_site: Site) -> Iterator[Site]:
    """Whole before and after each test."""
    yield sqlite_site
    sqlite_site.whole()


@pytest.fixture
def on_postgres(postgres_site: Site, postgres_server: PostgresServer) -> Iterator[Site]:
    """Whole before and after each test, with its database running."""
    yield postgres_site
    postgres_server.revive()
    postgres_site.whole()
