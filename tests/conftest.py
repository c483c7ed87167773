"""Fixtures that several test modules share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# Converted models go to a folder of this run, before anything reads where assets are kept.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="rerank-plugins-")
atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)

settings.register_profile("default", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("default")
