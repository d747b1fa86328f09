"""What a training run leaves: one row an epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from .files import atomic

Row = dict[str, float | None]


@dataclasses.dataclass
class History:
    """What happened in a training run, one row an epoch.

    Attributes:
        rows: Dictionaries with ``epoch`` (from 1), ``lr`` (of the epoch's last step), ``train_loss`` and
            ``train_accuracy`` (averaged over the epoch, on augmented images, while the weights were
            changing), ``val_loss`` and ``val_accuracy`` (``None`` without validation data) and ``seconds``
            (since the start).
        recipe: The recipe's fields.
        setup: Seed, precision, sizes, and the machine.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    setup: dict[str, Any] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> list[float | None]:
        """One quantity for all epochs.

        Raises:
            ValueError: If no quantity has that name.

        Example:
            >>> History([{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.05}]).column("lr")
            [0.1, 0.05]
        """
        if self.rows and name not in self.rows[0]:
            raise ValueError(f"a history has no column {name!r}: use {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def save(self, path: str | Path) -> None:
        """Writes JSON; the file appears whole or not at all.

        Raises:
            ValueError: If it cannot be written there.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
        with atomic(path) as file:
            file.write(text.encode())

    def save_csv(self, path: str | Path) -> None:
        """Writes the rows as CSV, for a spreadsheet; the file appears whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else ["epoch"])
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic(path) as file:
            file.write(text.getvalue().encode())

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a history.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path} is not a training history: expected the JSON that History.save writes"
            ) from None
