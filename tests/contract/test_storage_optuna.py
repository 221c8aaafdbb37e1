"""Optuna's own storage contract, held by our storage on PostgreSQL."""

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase

from storage.database.postgres import Database


class TestOptunaContract(StorageTestCase):
    """Inherits every test that Optuna asks of a storage."""

    @pytest.fixture
    def storage(self, database: Database) -> optuna.storages.RDBStorage:
        """Give every inherited test an empty database."""
        return database.storage
