"""Version tables: model versions and promotions as rows, and the details of one version."""

from typing import Any

from digits.data.arrays import LABELS_FILE
from digits.store.registry import ModelVersion, Promotion, RecordedDecision, Registry


def version_rows(registry: Registry) -> list[dict[str, Any]]:
    """Return one row per model version, oldest first, as `digits models` and the Prefect UI list them."""
    champion = registry.champion()
    return [
        {
            "version": version.number,
            "champion": "champion" if champion and champion.number == version.number else "",
            "accuracy": f"{version.facts.accuracy:.2%}",
            "ece": f"{version.facts.ece:.2%}",
            "architecture": version.facts.architecture,
            "epochs": version.facts.epochs,
            "datasets": " + ".join(version.facts.datasets),
            "created": version.created_at,
        }
        for version in registry.versions()
    ]


def promotion_rows(registry: Registry) -> list[dict[str, Any]]:
    """Return one row per change of champion, oldest first."""
    return [
        {
            "number": entry.number,
            "action": entry.action,
            "version": entry.version,
            "reasons": " ".join(entry.reasons),
            "created": entry.created_at,
            "by": str(entry.by),
        }
        for entry in registry.promotions()
    ]


def version_details(registry: Registry, version: ModelVersion) -> dict[str, Any]:
    """Return everything recorded about a version: facts, artifact paths, decisions and promotions."""
    champion = registry.champion()
    entries = [entry for entry in registry.promotions() if entry.version == version.number]
    return {
        "champion": bool(champion and champion.number == version.number),
        **version.facts.as_record(),
        "created": version.created_at,
        "weights_sha256": version.weights_sha256,
        **{kind: str(registry.artifact_path(version.artifact(kind))) for kind in version.artifacts},
        **(
            {"labels": str(registry.artifact_path(version.artifact("arrays")) / LABELS_FILE)}
            if version.facts.own_images
            else {}
        ),
        "decisions": [_decision_line(made) for made in registry.decisions() if made.version == version.number],
        "promotions": [_promotion_line(entry) for entry in entries],
    }


def _promotion_line(entry: Promotion) -> str:
    author = f" by {entry.by}" if str(entry.by) else ""
    return f"{entry.created_at} {entry.action}{author}: {' '.join(entry.reasons)}"


def _decision_line(made: RecordedDecision) -> str:
    against = f" against version {made.champion}" if made.champion else ""
    verdict = "promoted" if made.decision.promote else "not promoted"
    sets = [
        f"{row.name} {row.champion:.2%} -> {row.challenger:.2%} (+{row.gained} -{row.lost} images)"
        for row in made.decision.sets
        if row.champion is not None
    ]
    return " ".join([f"{made.created_at}{against}: {verdict}:", *made.decision.reasons, "; ".join(sets)]).rstrip()
