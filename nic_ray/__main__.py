"""`python -m nic_ray` or `nic-ray`: all commands under one name, which a shell can complete."""

from nic_ray import (
    ask,
    check,
    compare,
    console,
    convert,
    curve,
    evaluate,
    export,
    mine,
    plan,
    retrieve,
    sections,
    serve,
    terms,
    train,
    tune,
    validate,
    verify,
)
from nic_ray.anomaly import __main__ as anomaly

COMMANDS = (
    sections,
    terms,
    ask,
    tune,
    plan,
    check,
    mine,
    train,
    export,
    verify,
    validate,
    evaluate,
    compare,
    retrieve,
    convert,
    curve,
    serve,
)
VERBS = {
    "anomaly": console.Verbs(anomaly.main.__doc__ or "", (anomaly.fit, anomaly.evaluate, anomaly.score, anomaly.watch))
}


def main() -> None:
    """Find, export and vouch for the embedding model that retrieves best in every domain."""
    commands = {module.__name__.rpartition(".")[2]: module.main for module in COMMANDS}
    console.run_one_of({**commands, **VERBS}, main.__doc__ or "")


if __name__ == "__main__":
    main()
