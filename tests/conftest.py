"""Fixtures, hooks and settings of all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

from tests.helpers.resource_leaks import (
    no_tasks_left,
    nothing_left,
    pytest_collection_finish,
    pytest_runtest_teardown,
)

# They fail a test that leaves a thread, a future, a task or a socket.
__all__ = ["no_tasks_left", "nothing_left", "pytest_collection_finish", "pytest_runtest_teardown"]

# Converted models are stored in a folder of this run. Libraries read the variable on import.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="rerank-plugins-")
atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)

settings.register_profile("default", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("default")
