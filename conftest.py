"""Notebooks as tests: a result other than the text describes fails."""

import os

collect_ignore = ["lab"]  # a reader's own copies of the chapters

os.environ["RESNET_TUTORIAL_STRICT"] = "1"
