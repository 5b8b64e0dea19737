"""What must not occur in two splits."""

from __future__ import annotations

from benchmarks.detection.sources import Sources

__all__ = ["units"]


def units(sources: Sources) -> dict[str, set[str]]:
    """The units of a split's sources, by kind."""
    return {
        "people": {person.name for person in sources.people},
        "utterances": set(sources.utterances),
        "questions": set(sources.questions),
        "personas": set(sources.personas),
        "tasks": set(sources.tasks),
        "puzzles": set(sources.puzzles),
        "problems": set(sources.problems),
        "instructions": {text for texts in sources.instructions.values() for text in texts},
        "templates": set(sources.teacher_templates),
        "articles": set(sources.articles),
        "clients": {client.name for client in sources.clients},
    }
