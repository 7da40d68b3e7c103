"""A study's review and preview as the officer's terminal shows them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from wardround_client.preview import Preview, Release
from wardround_client.review import Review
from wardround_client.rowsets import Near
from wardround_common.errors import listed

OWN = "This hospital's own numbers, before they are sealed: don't pass them on."
_FIRST_VALUES = 6


def show_review(console: Console, found: Review) -> None:
    """Print a review."""
    console.print(f"`{found.name}`, {found.state}{f' ({found.why})' if found.why else ''}: {found.title}")
    console.print(f"Digest: {found.digest}")
    if found.question:
        console.print(f"Question: {found.question}")
    console.print(f"Asked by: {found.asked_by or 'the study does not say'}")
    if found.coordinator:
        console.print(f"Coordinator: {found.coordinator}")
    if found.roster_words:
        console.print(f"Roster, words to compare: {found.roster_words}")
    elif not found.members:
        console.print("No other hospital was named yet.")
    for member in found.members:
        console.print(f"  `{member.name}`: {member.state}")
    console.print(f"\nTable: {found.source}")
    console.print(f"Rows: {found.read:,} read, {found.rows:,} in the cohort")
    if found.where:
        console.print(f"  where {found.where}")
    if found.closed:
        console.print(f"  closed: {found.closed}")
    grid = Grid("variable", "means", "column here", "rows with a value")
    for one in found.variables:
        grid.add_row(one.name, one.means, one.column or "none: read as missing", f"{one.observed:,}")
    console.print(grid)
    for analysis in found.analyses:
        rows = f"{analysis.train:,} rows" + (f" and {analysis.test:,} held out" if analysis.test else "")
        console.print(f"{analysis.label}: {analysis.sentence} Here: {rows}.")
    _show_leaving(console, found)
    for term in found.terms:
        console.print(f"- {term}")
    _show_changes(console, found)
    _show_verdict(console, found)


def short(found: Review) -> str:
    """Say of a review what matters most."""
    lines = [
        f"`{found.name}`: {found.title[:200]}",
        f"Asked by: {found.asked_by or 'the study does not say'}",
        f"Analyses: {listed(one.kind for one in found.analyses)}; digest {found.digest[:8]}",
        f"Rows: {found.read:,} read, {found.rows:,} in the cohort",
        _leaving(found),
        found.verdict,
        *(_near(one) for one in found.near),
        f"All of it: wardround hospital review {found.name}",
    ]
    return "\n".join(lines)


def _show_leaving(console: Console, found: Review) -> None:
    grid = Grid("analysis", "query", "times", "numbers", "at most", "fields")
    for one in found.run.leaving:
        grid.add_row(
            *(one.analysis, one.kind, str(one.times), f"{one.numbers:,}", f"{one.most:,}"),
            ", ".join(one.fields),
        )
    console.print(
        f"\nWhat would leave, as a run over {found.run.rows:,} rows of this hospital alone was asked:"
    )
    console.print(grid)
    console.print(_leaving(found))
    if found.run.ended:
        console.print(f"The run ended early, so more would leave than is shown: {found.run.ended}")
        estimates = ", ".join(f"{one.label} {one.steps}" for one in found.analyses)
        console.print(f"Rounds by the analyses' own estimate, as they go on together: {estimates}")


def _leaving(found: Review) -> str:
    """Say in a sentence how much would leave."""
    run, variables = found.run, len(found.variables)
    return (
        f"{run.numbers:,} numbers in all, in about {run.rounds} rounds: {found.share:.2g} for each of the "
        f"{found.rows * variables:,} values of the cohort ({found.rows:,} rows x {variables} variables)."
    )


def _show_changes(console: Console, found: Review) -> None:
    if not found.compared_with:
        console.print("\nNo earlier study to compare with.")
        return
    console.print(f"\nCompared with {found.compared_with}:" + ("" if found.changes else " no difference"))
    for change in found.changes:
        console.print(f"  {change.key}: was {change.was or 'not there'}, is {change.now or 'not there'}")


def _show_verdict(console: Console, found: Review) -> None:
    console.print(f"\n{found.verdict}")
    for refusal in found.refusals:
        console.print(f"  {refusal}")
    for near in found.near:
        console.print(f"  {_near(near)}")


def _near(near: Near) -> str:
    """Say what sums over few rows would tell, and what that means for the decision."""
    if near.is_correction:
        what = "allowed: one cohort, closed by one day"
    elif near.accepted:
        what = "accepted before"
    else:
        named = " ".join(f"--accept {name}" for name in near.others or (near.study,))
        what = f"refused, unless you approve with {named}"
    persons = "1 person" if near.persons == 1 else f"{near.persons} persons"
    return f"Sums over {near.names} would tell of {persons} here ({what})"


def show_preview(console: Console, found: Preview, full: bool) -> None:
    """Print a preview; ``full``: with all values."""
    console.print(OWN)
    for release in found.releases:
        show_release(console, release, full)
    numbers = sum(one.numbers for one in found.releases)
    console.print(f"\n{len(found.releases)} releases, {numbers:,} numbers.")
    if found.ended:
        console.print(f"It ended early, since the program can't go on with one hospital alone: {found.ended}")
    for refusal in found.refusals:
        console.print(f"Refused: {refusal}")
    for near in found.near:
        console.print(_near(near))


def show_release(console: Console, release: Release, full: bool) -> None:
    """Print a release before it is sealed: the first values of its arrays, or all."""
    console.print(
        f"\n{release.analysis} {release.index}, {release.kind}: {release.numbers:,} numbers about "
        f"{release.rows:,} rows; {release.verdict}"
    )
    for name, array in release.values.items():
        flat = array.reshape(-1)
        first = flat if full else flat[:_FIRST_VALUES]
        more = f" ... {len(flat) - len(first):,} more" if len(first) < len(flat) else ""
        shape = ", ".join(map(str, array.shape))
        console.print(f"  {name}[{shape}]: {', '.join(f'{value:.10g}' for value in first)}{more}")
