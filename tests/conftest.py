"""Fixtures that several test modules share."""

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

# No test may leave a thread, a future, a task or a socket behind.
__all__ = ["no_tasks_left", "nothing_left", "pytest_collection_finish", "pytest_runtest_teardown"]

# Converted models go to a folder of this run, before anything reads where assets are kept.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="rerank-plugins-")
atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)

settings.register_profile("default", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("default")
