"""Long work: kept in the database, done in threads, begun again after the process was killed."""

from __future__ import annotations
