"""What a network said about a set of images, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import atomic
from ..untrusted import refuse_swollen

LARGEST = 2**31  # bytes of logits: those of ImageNet's 50,000 images are a tenth of it


def frozen(values: Any, dtype: Any = None) -> NDArray[Any]:
    """Copy into a read-only array."""
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network said about N images, beside what is true. Immutable; its arrays are read-only copies.

    Attributes:
        logits: Float32 ``(N, K)``.
        labels: The true classes, int64 ``(N,)``, in 0..K-1; ``None`` if nobody knows them.
        classes: The K class names.

    Raises:
        ValueError: If the parts do not fit together, a logit is not finite, or labels are missing where
            they are needed.

    Example:
        >>> predictions = Predictions(np.array([[2, 0], [0, 1]]), np.array([0, 0]), ("cat", "dog"))
        >>> predictions.predicted.tolist(), predictions.correct.tolist()
        ([0, 1], [True, False])
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check shapes and values once, so that the metrics need not."""
        logits, classes = frozen(self.logits, np.float32), tuple(str(name) for name in self.classes)
        if logits.ndim != 2 or not len(logits) or logits.shape[1] != len(classes):
            needed = f"{len(classes)} classes need (N, {len(classes)}), N > 0"
            raise ValueError(f"logits have shape {logits.shape}: {needed}")
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        if bad:
            given = f"logits of {bad} of {len(logits)} images are not finite"
            raise ValueError(f"{given}: training diverged, lower its rate")
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "classes", classes)
        if self.labels is None:
            return
        labels = frozen(self.labels)
        if labels.shape != (len(logits),) or not np.issubdtype(labels.dtype, np.integer):
            given = f"labels are {labels.dtype} of shape {labels.shape}"
            raise ValueError(f"{given}: give ({len(logits)},) integers")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}: give 0..{len(classes) - 1}")
        object.__setattr__(self, "labels", frozen(labels, np.int64))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.logits)

    @cached_property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Logarithm of the softmax, float64 ``(N, K)``; no logit is too large for it."""
        shifted = self.logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        return frozen(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, float64 ``(N, K)``."""
        return frozen(np.exp(self.log_probabilities))

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Class with the largest logit, int64 ``(N,)``; the first one of equals."""
        return frozen(self.logits.argmax(axis=1), np.int64)

    @property
    def known_labels(self) -> NDArray[np.int64]:
        """The labels; ``ValueError`` if there are none."""
        if self.labels is None:
            raise ValueError("these predictions have no labels: predict a Split, which has them, to measure")
        return self.labels

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Where the predicted class is the true one, bool ``(N,)``."""
        return frozen(self.predicted == self.known_labels)

    def tempered(self, temperature: float) -> Predictions:
        """Divide the logits by a temperature: other probabilities, the same predicted classes.

        Example:
            >>> softer = Predictions([[2, 0]], None, ("cat", "dog")).tempered(2.0)
            >>> softer.logits[0].tolist()
            [1.0, 0.0]
        """
        return replace(self, logits=self.logits / np.float32(temperature))

    def save(self, path: str | Path, *, dtype: type[np.float16] | type[np.float32] = np.float32) -> Path:
        """Write a compressed ``.npz``, complete or not at all, and its missing directories. Return its path.

        Logits are stored as ``dtype``; float16 halves the file and keeps three digits.

        Raises:
            ValueError: If a logit is too large for ``dtype``, or the file cannot be written.

        Example:
            >>> predictions = Predictions([[2.5, 0], [0, 1]], [0, 1], ("cat", "dog"))
            >>> Predictions.load(predictions.save("logits.npz", dtype=np.float16)).logits[0].tolist()
            [2.5, 0.0]
        """
        if (largest := float(np.abs(self.logits).max())) > float(np.finfo(dtype).max):
            raise ValueError(f"logits of {largest:g} do not fit into {dtype.__name__}: save them as float32")
        content: dict[str, Any] = {"logits": self.logits.astype(dtype), "classes": np.array(self.classes)}
        if self.labels is not None:
            content["labels"] = self.labels.astype(np.min_scalar_type(len(self.classes) - 1))
        with atomic(path, parents=True) as file:
            np.savez_compressed(file, **content)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: give a .npz file written by Predictions.save")
        try:
            refuse_swollen(path, most=LARGEST)
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                labels = content.get("labels")
                return cls(content["logits"], labels, tuple(content["classes"].tolist()))
        except Exception as error:  # a broken file makes decoders raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"{path} is damaged or not a file of Predictions.save ({reason})"
            raise ValueError(f"{what}: write it again") from None
