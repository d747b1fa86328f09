"""Predictions and metrics against hand-computed cases and plain formulas."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from sklearn import metrics

from resnet_tutorial.evaluation import (
    Predictions,
    reliability_bins,
    report,
    wilson_interval,
)

CLASSES = ("a", "b", "c")


def random_predictions(n: int = 300, k: int = 6, *, strength: float = 1.5) -> Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, k, n)
    logits = random.normal(size=(n, k))
    logits[np.arange(n), labels] += strength
    return Predictions(logits, labels, tuple(f"class {i}" for i in range(k)))


def from_predicted(labels: list[int], predicted: list[int], k: int = 3) -> Predictions:
    return Predictions(4.0 * np.eye(k)[predicted], np.array(labels), tuple("abcdefghij"[:k]))


# Predictions


def test_huge_logits_do_not_overflow():
    """exp(1000) = inf, and NaN probabilities; a warning here fails the test."""
    huge = Predictions(np.array([[1e4, -1e4, 0], [-1e30, 1e30, 0]]), np.array([0, 2]), CLASSES)
    np.testing.assert_array_equal(huge.probabilities, [[1, 0, 0], [0, 1, 0]])
    assert report(huge).loss == pytest.approx(np.float32(1e30) / 2)


def test_probabilities_are_the_softmax():
    """Rows that do not add to one; the softmax of another axis."""
    result = Predictions(np.log([[1.0, 2.0, 5.0], [6.0, 3.0, 1.0]]), np.array([2, 1]), CLASSES)
    np.testing.assert_allclose(result.probabilities, [[1 / 8, 2 / 8, 5 / 8], [0.6, 0.3, 0.1]], rtol=1e-6)
    assert result.predicted.tolist() == [2, 0] and result.correct.tolist() == [True, False]


def test_predictions_and_report_are_immutable():
    """A cell that sorts logits in place and changes every number after it."""
    logits = np.zeros((2, 3), np.float32)
    result = Predictions(logits, np.array([0, 1]), CLASSES)
    logits[0, 0] = 9
    assert result.logits[0, 0] == 0
    for array in (result.logits, result.labels, result.probabilities, result.predicted, result.correct):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(FrozenInstanceError):
        result.logits = logits
    full = report(result)
    with pytest.raises(FrozenInstanceError):
        full.accuracy = 1.0
    with pytest.raises(ValueError, match="read-only"):
        full.confusion[0, 0] = 5
    with pytest.raises(TypeError):
        full.topk[1] = 1.0


def test_save_and_load_round_trip(tmp_path):
    """A suffix added behind the caller's back, classes turned into bytes, leftovers of writing."""
    result = random_predictions()
    path = result.save(tmp_path / "new" / "logits.npz")
    again = Predictions.load(path)
    assert [item.name for item in path.parent.iterdir()] == ["logits.npz"]
    np.testing.assert_array_equal(again.logits, result.logits)
    np.testing.assert_array_equal(again.labels, result.labels)
    assert again.classes == result.classes and all(type(name) is str for name in again.classes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("labelled", [True, False])
def test_logits_are_stored_in_the_type_asked_for(dtype, labelled, tmp_path):
    """Half precision that is read back as another class or label, and labels made up for images without."""
    made = random_predictions()
    made = Predictions(made.logits, made.labels if labelled else None, made.classes)
    again = Predictions.load(made.save(tmp_path / "logits.npz", dtype=dtype))
    with np.load(tmp_path / "logits.npz") as content:
        assert content["logits"].dtype == dtype
        assert not labelled or content["labels"].dtype == np.uint8
    np.testing.assert_array_equal(again.logits, made.logits.astype(dtype))
    assert again.logits.dtype == np.float32 and again.classes == made.classes
    assert again.labels is None if made.labels is None else np.array_equal(again.labels, made.labels)


def test_logits_too_large_for_half_precision_are_refused(tmp_path):
    """Infinity on the disk, which nobody can read again."""
    huge = Predictions([[1e5, 0]], [0], ("a", "b"))
    with pytest.raises(ValueError, match="100000 do not fit into float16: save them as float32"):
        huge.save(tmp_path / "logits.npz", dtype=np.float16)
    assert not list(tmp_path.iterdir())
    assert Predictions.load(huge.save(tmp_path / "logits.npz")).logits[0, 0] == 1e5


@pytest.mark.parametrize(("logits", "labels"), [(np.float16, np.uint16), (np.float32, np.int64)])
def test_files_of_earlier_versions_are_read(logits, labels, tmp_path):
    """Recorded logits that can no longer be checked."""
    path, classes = tmp_path / "old.npz", np.array(CLASSES)
    np.savez_compressed(
        path, logits=np.eye(3, dtype=logits), labels=np.arange(3, dtype=labels), classes=classes
    )
    again = Predictions.load(path)
    assert again.correct.all() and again.labels.dtype == np.int64 and again.classes == CLASSES


def test_load_refuses_what_save_did_not_write(tmp_path):
    """A traceback of the zip library, a pickle executed, or a damaged file taken for good."""
    path = random_predictions().save(tmp_path / "logits.npz")
    good = path.read_bytes()
    middle = len(good) // 3
    damaged = {
        "empty": b"",
        "text": b"hello",
        "truncated": good[: len(good) // 2],
        "bit flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
    }
    np.savez(tmp_path / "other.npz", logits=np.zeros((1, 3)))
    damaged["other arrays"] = (tmp_path / "other.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    damaged["one array"] = (tmp_path / "array.npy").read_bytes()
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    damaged["pickle"] = (tmp_path / "pickle.npy").read_bytes()
    for name, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"logits\.npz is damaged") as error:
            Predictions.load(path)
        assert "\n" not in str(error.value), name
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        Predictions.load(tmp_path / "nowhere.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """A full disk that destroys the predictions which were there."""
    path = random_predictions().save(tmp_path / "logits.npz")
    before = path.read_bytes()

    def fail(file, **_arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(ValueError, match=r"cannot write .*logits\.npz: No space"):
        random_predictions(10).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Predictions(np.zeros((2, 4)), np.zeros(2, int), CLASSES), r"\(N, 3\)"),
        (lambda: Predictions(np.zeros((0, 3)), np.zeros(0, int), CLASSES), "N > 0"),
        (lambda: Predictions(np.zeros((2, 3)), np.zeros(3, int), CLASSES), "labels"),
        (lambda: Predictions(np.zeros((2, 3)), np.zeros(2), CLASSES), "integers"),
        (lambda: Predictions(np.zeros((2, 3)), np.array([0, 3]), CLASSES), r"0\.\.2"),
        (lambda: Predictions(np.full((2, 3), np.inf), np.zeros(2, int), CLASSES), "not finite"),
        (lambda: report(random_predictions(), topk=(0,)), "1 or more"),
        (lambda: wilson_interval(3, 2), "give 0 <="),
        (lambda: reliability_bins(random_predictions(), bins=0), "bins is 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    """A wrong number, or an error from deep inside NumPy."""
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


# report


def test_report_of_a_case_done_by_hand():
    """Rows and columns of the confusion matrix swapped, and precision taken for recall."""
    result = report(from_predicted([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]))
    assert result.n == 6 and result.accuracy == pytest.approx(4 / 6)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(result.recall, [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(result.f1, [0.8, 0.5, 2 / 3])
    assert result.support.tolist() == [3, 2, 1]
    assert result.macro == pytest.approx((2 / 3, 13 / 18, 59 / 90))
    assert result.weighted == pytest.approx((0.75, 4 / 6, (3 * 0.8 + 2 * 0.5 + 2 / 3) / 6))
    right, wrong = -np.log(np.exp(4) / (np.exp(4) + 2)), -np.log(1 / (np.exp(4) + 2))
    assert result.loss == pytest.approx((4 * right + 2 * wrong) / 6)


def test_wilson_interval_against_published_and_limiting_values():
    """The normal approximation, whose interval is a point at 0 and leaves 0..1."""
    # Newcombe (1998), Statistics in Medicine 17, table I: 81/263, 15/148, 0/20, 1/29.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1


def test_top_k_agrees_with_scikit_learn_and_with_accuracy():
    """Top-1 that differs from the accuracy."""
    result = random_predictions()
    shares = report(result, topk=(1, 2, 5)).topk
    for k in (2, 5):
        assert shares[k] == pytest.approx(metrics.top_k_accuracy_score(result.labels, result.logits, k=k))
    assert shares[1] == result.correct.mean() < shares[2] < shares[5]


def test_ties_are_not_counted_as_hits():
    """A dead network with equal logits that scores 100 % because every class is 'among the largest'."""
    tied = Predictions(np.zeros((30, 10)), np.arange(30) % 10, tuple("abcdefghij"))
    result = report(tied)
    assert result.accuracy == pytest.approx(0.1)
    assert dict(result.topk) == pytest.approx({1: 0.1, 5: 0.5})
    np.testing.assert_allclose(result.auc, 0.5)
    assert result.auc_micro == pytest.approx(0.5) and result.loss == pytest.approx(np.log(10))
    for fpr, tpr in (*result.roc, result.roc_micro, result.roc_macro):
        np.testing.assert_allclose(fpr, tpr)


def test_auc_is_the_probability_of_ranking_a_pair_correctly():
    """Curves from predicted classes instead of scores; ties counted as wins."""
    rounded = np.round(random_predictions(120, 4).logits)  # many ties
    result = Predictions(rounded, random_predictions(120, 4).labels, tuple("abcd"))
    full = report(result)
    pooled = [(result.probabilities[:, k], result.labels == k) for k in range(4)]
    pooled.append((result.probabilities.ravel(), (result.labels[:, None] == np.arange(4)).ravel()))
    areas = []
    for score, truth in pooled:
        difference = score[truth][:, None] - score[~truth]
        areas.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    np.testing.assert_allclose([*full.auc, full.auc_micro], areas)
    assert full.auc_macro == pytest.approx(np.mean(areas[:4]))


def test_macro_roc_is_the_mean_curve_and_has_the_mean_area():
    """Interpolation through vertical rises makes the macro curve better than its classes."""
    full = report(random_predictions(60, 5))
    fpr, tpr = full.roc_macro
    assert metrics.auc(fpr, tpr) == pytest.approx(full.auc_macro, abs=1e-12)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= -1e-12).all()
    inside = (fpr[:-1] + fpr[1:])[np.diff(fpr) > 0] / 2  # no curve rises there
    expected = np.mean([np.interp(inside, *curve) for curve in full.roc], axis=0)
    np.testing.assert_allclose(np.interp(inside, fpr, tpr), expected)


def test_confusion_matrix_agrees_with_scikit_learn():
    """Rows and columns swapped; rows of classes that are never predicted lost."""
    result = random_predictions(strength=0.5)
    np.testing.assert_array_equal(
        report(result).confusion, metrics.confusion_matrix(result.labels, result.predicted)
    )


def test_precision_recall_curves_belong_to_their_average_precision():
    """Axes of the curve swapped; the trapezoidal area, which is too optimistic."""
    result = random_predictions()
    full = report(result)
    for k, (recall, precision) in enumerate(full.pr):
        assert recall[-1] == 0 and precision[-1] == 1  # scikit-learn's order
        assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(full.average_precision[k])
        order = np.argsort(-result.probabilities[:, k], kind="stable")
        hits = (result.labels == k)[order]
        by_hand = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
        assert full.average_precision[k] == pytest.approx(by_hand)


def test_perfect_predictions():
    """Rates inverted: a perfect network must have every area and score at 1."""
    full = report(from_predicted([0, 1, 2, 0], [0, 1, 2, 0]))
    assert full.accuracy == full.auc_micro == full.auc_macro == 1
    np.testing.assert_array_equal(np.stack([full.precision, full.recall, full.f1, full.auc]), 1)
    np.testing.assert_array_equal(full.average_precision, 1)


def test_ece_of_a_case_done_by_hand():
    """Bins weighted alike, or closed at the wrong end."""
    confident = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    result = Predictions(confident, np.array([0, 0, 0, 1, 1]), ("a", "b"))
    # Four of confidence 0.9 with accuracy 0.75, one of confidence 0.6 with accuracy 0.
    assert report(result).ece == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)
    counts, confidence, accuracy = reliability_bins(result, bins=2)
    assert counts.tolist() == [0, 5] and np.isnan(confidence[0]) and np.isnan(accuracy[0])
    assert (confidence[1], accuracy[1]) == pytest.approx((0.84, 0.6))
    tied = Predictions(np.zeros((1, 2)), np.array([0]), ("a", "b"))
    assert reliability_bins(tied, bins=2)[0].tolist() == [1, 0]  # 0.5 belongs to (0, 0.5]


def test_ece_against_a_loop_over_bins():
    """The vectorised formula; certainty 1.0 falling out of the last bin."""
    certain = random_predictions(strength=60)
    for result in (random_predictions(), certain):
        confidence = result.probabilities.max(axis=1)
        expected = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                expected += inside.mean() * abs(confidence[inside].mean() - result.correct[inside].mean())
        assert report(result).ece == pytest.approx(expected)
        assert reliability_bins(result)[0].sum() == len(result)


def test_absent_classes_have_nan_and_are_left_out_of_the_averages():
    """A class without test images that pulls every average down, or a warning (an error here)."""
    full = report(from_predicted([0, 0, 1, 1], [0, 3, 1, 1], k=4))
    assert full.support.tolist() == [2, 2, 0, 0] and full.confusion.shape == (4, 4)
    for values in (full.precision, full.recall, full.f1, full.auc, full.average_precision):
        assert np.isnan(values).tolist() == [False, False, True, True]
    assert full.macro == pytest.approx((1, 0.75, (2 / 3 + 1) / 2))
    assert full.auc_macro == pytest.approx(full.auc[:2].mean()) and len(full.roc[2][0]) == 0
    assert json.loads(json.dumps(full.to_dict(), allow_nan=False))["auc"][2] is None
    assert " -" in str(full)


def test_a_class_that_is_never_predicted_has_precision_zero():
    """A collapsed network whose macro precision looks fine because empty columns were skipped."""
    full = report(from_predicted([0, 1, 2], [0, 0, 0]))
    np.testing.assert_allclose(full.precision, [1 / 3, 0, 0])
    assert full.macro.precision == pytest.approx(1 / 9)


def test_labels_of_a_single_class():
    """scikit-learn's warnings and a 1 x 1 confusion matrix."""
    full = report(from_predicted([1, 1, 1], [1, 1, 0]))
    assert full.confusion.tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert np.isnan(full.auc).all() and np.isnan(full.auc_macro) and not np.isnan(full.auc_micro)
    assert full.macro.recall == pytest.approx(2 / 3)
    alone = report(Predictions(np.zeros((4, 1)), np.zeros(4, int), ("only",)))
    assert alone.accuracy == 1 and np.isnan(alone.auc_micro) and "only" in str(alone)
    json.dumps(alone.to_dict(), allow_nan=False)


def test_two_classes():
    """Binary short cuts of scikit-learn, which expect one score a sample."""
    full = report(from_predicted([0, 0, 1, 1], [0, 1, 1, 1], k=2))
    assert full.confusion.tolist() == [[1, 1], [0, 2]] and dict(full.topk) == {1: 0.75}
    np.testing.assert_allclose(full.auc, 0.75)


def test_a_class_has_one_line_whatever_its_name():
    """A class called "a\\naccuracy  1.0000" put a line of its own into the report."""
    names = ("a\naccuracy  1.0000", "b\u2028", "c\nd")
    lines = str(report(Predictions(np.eye(3)[[0, 0, 1, 0]], np.array([0, 1, 1, 2]), names))).splitlines()
    assert [line for line in lines if line.startswith("accuracy")] == [lines[1]]
    assert any(line.startswith("a accuracy  1.0000  ") for line in lines)
    assert lines[-1].endswith(": c d") and len(lines) == 14


def test_text_and_dictionary_say_the_same():
    """A table whose columns are mixed up; a confidence interval that does not say what it is."""
    full = report(random_predictions())
    text, content = str(full), full.to_dict()
    assert "95 % Wilson" in text and "Wilson" in content["interval_method"]
    assert content["interval"][0] < content["accuracy"] < content["interval"][1]
    row = next(line for line in text.splitlines() if line.startswith("class 2")).split()
    columns = ("precision", "recall", "f1", "auc", "average_precision")
    assert [float(cell) for cell in row[2:7]] == [round(content[name][2], 4) for name in columns]
    assert int(row[7]) == content["support"][2]
    assert (
        len({len(line) for line in text.splitlines() if line.startswith(("class ", "macro", "weighted"))})
        == 1
    )
