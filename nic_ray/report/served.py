"""What was found of an endpoint, for a terminal."""

from pathlib import Path

from nic_ray import console
from nic_ray.bundle.served_verification import ServedVerification


def show_served(found: ServedVerification, folder: Path) -> None:
    """Print what was found of an endpoint: the verdict, the recall beside the stated one, faults and findings."""
    if found.faults:
        count = len(found.faults)
        console.say(f"{found.url}: does not serve {folder}: {count} fault{'s' if count > 1 else ''}")
    else:
        console.say(f"{found.url}: serves {folder} (model {found.model}, {found.precision})")
    console.say(f"asked by: {found.way.name}; lowest cosine of a golden text: {found.lowest_cosine:.6f}")
    if (recall := found.recall) is not None:
        rows = [
            [domain, f"{value:.4f}", f"{recall.stated[domain]:.4f}" if domain in recall.stated else "-"]
            for domain, value in recall.served.items()
        ]
        console.show(console.table(["Recall@5", "served", recall.stated_by], rows))
        console.say(f"{recall.queries} queries of the test rows over {recall.passages} passages")
    for kind, lines in (("fault", found.faults), ("finding", found.findings)):
        for line in lines:
            console.say(f"{kind}: {line}")
