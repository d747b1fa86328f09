"""Makes ``python -m resnet_tutorial`` the same as ``resnet-tutorial``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
