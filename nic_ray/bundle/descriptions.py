"""What card, report and terminal say of a search: of averaging, a search by words, chances, training again."""

from collections.abc import Mapping

from nic_ray.evidence import StoredCalibration, StoredCurve, WordSearch
from nic_ray.metrics.fusion import Fusion
from nic_ray.metrics.table import METRICS, PRIMARY
from nic_ray.origin import StoredData
from nic_ray.results import StoredRefit


def describe_word_search(found: WordSearch) -> str:
    """Describe in a sentence or two what the chosen fusion adds to the tuned model, and what follows from it."""
    gain = found["gain"]
    sure = "" if gain["low"] is None else f" ({gain['low']:+.3f} to {gain['high']:+.3f})"
    verdict = (
        "so python -m nic_ray.retrieve ranks by both"
        if found["helps"]
        else "which may be chance, so python -m nic_ray.retrieve ranks without words unless it is asked to"
    )
    return (
        f"By {Fusion(**found['chosen']['tuned'])}, chosen on the validation rows, the tuned model finds "
        f"{gain['difference']:+.3f}{sure} macro {METRICS[PRIMARY].label} there against what it finds alone, {verdict}."
    )


def describe_averaging(cross_fitted: Mapping[int, float]) -> str:
    """Describe what the mean of several trials is worth on passages that did not choose them."""
    values = ", ".join(f"{value:.3f} of {size}" for size, value in cross_fitted.items())
    return (
        "Objective of the mean of the best trials, where one half of the validation passages chooses them and the "
        f"other half measures: {values}."
    )


def describe_calibration(found: StoredCalibration) -> str:
    """Describe what the calibration is worth, on the test rows if they were read."""
    part = "test" if "test" in found["readings"] else "validation"
    read = found["readings"][part]
    return (
        f"By its score, the first hit has a chance to answer, calibrated on the validation rows. On the {part} rows "
        f"its Brier score is {read['brier']:.3f}, where stating {read['right']:.0%} every time has "
        f"{read['brier_of_the_mean']:.3f}. A first hit below {found['threshold']:.3g} counts as nothing found: that is "
        f"said of {read['right_below']:.1%} of the right first hits, and of {read['recognised']:.1%} of the questions "
        "if their answers are taken out of the passages."
    )


def describe_refit(found: StoredRefit) -> str:
    """Describe in a sentence or two the model that was trained again, and whether it is the one that is exported."""
    kept = [f"{found['training']['difference']:+.3f} macro {METRICS[PRIMARY].label} on the training rows"]
    if found["retention"] is not None:
        kept.append(f"{found['retention'][PRIMARY]:+.3f} on the retention set")
    if found["neighbours_kept"] is not None:
        kept.append(f"{found['neighbours_kept']:.1%} of the neighbours of general texts kept")
    verdict = (
        f"The model that the figures belong to is exported, not this one: {found['objection']}."
        if found["objection"]
        else f"It is exported, {found['alpha']:.0%} of the way from the base model to it."
    )
    trials, mean = " and ".join(found["trials"]), ", their mean" if len(found["trials"]) > 1 else ""
    return (
        f"{trials} trained again on the rows of all parts, {found['rows']:,} of them{mean}, against the model that the "
        f"figures belong to: {', '.join(kept)}. {verdict}"
    )


def describe_curve(found: StoredCurve) -> str:
    """Say in one or two sentences what twice as many pairs would bring."""
    doubling = found["doubling"]
    sure = "" if doubling["low"] is None else f" ({doubling['low']:+.3f} to {doubling['high']:+.3f})"
    return (
        f"By the line through these points, twice as many passages bring {doubling['difference']:+.3f}{sure} macro "
        f"{METRICS[PRIMARY].label}. Curves flatten, so of what lies beyond all passages expect rather less."
    )


def describe_ranked(data: StoredData) -> str:
    """Say which passages a query is ranked against."""
    if "passages" not in data:
        return "all passages of the data, whatever part they belong to"
    named = f"all {data['passages']} passages of the data, whatever part they belong to"
    if not (corpus := data.get("corpus")) or not corpus["passages"]:
        return named
    whole = f"{named}, and {corpus['passages']:,} passages of {corpus['path']} that no row names"
    if corpus["sampled"] == corpus["passages"]:
        return whole
    return (
        f"{whole}; on the validation rows, by which everything was chosen, against a sample of {corpus['sampled']:,} "
        "of those, half of it the hardest for the base model"
    )
