"""Notebooks as tests: a result other than the text describes fails."""

import os

os.environ["RESNET_TUTORIAL_STRICT"] = "1"
