"""Makes ``python -m resnet_tutorial`` the same as ``resnet-tutorial``."""

from __future__ import annotations


def main() -> int:
    """Run one command; Ctrl-C while PyTorch is still being loaded gives no traceback."""
    try:
        from .cli import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    raise SystemExit(main())
