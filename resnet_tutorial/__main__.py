"""Makes ``python -m resnet_tutorial`` the same as ``resnet-tutorial``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; what goes wrong while PyTorch and others are being loaded gives no traceback."""
    try:
        from .cli import main
    except KeyboardInterrupt:
        return 130
    except (ValueError, ImportError) as error:  # of a library that reads variables
        reason = " ".join(str(error).split())[:200]
        print(
            f"resnet-tutorial: a library cannot be loaded ({reason}): "
            "look at the variables of the environment that it reads, such as MPLBACKEND",
            file=sys.stderr,
        )
        return 2
    return main()


if __name__ == "__main__":
    raise SystemExit(main())
