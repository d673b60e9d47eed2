"""What is proved of a result, in one line or as a table."""

from pnp_lip.command_line.common import say
from pnp_lip.solvers import Denoising, Guarantee, Result
from pnp_lip.solvers.hypothesis import MET, STATED, UNMET, show

__all__ = ["explained", "said", "say_result"]


def say_result(result: Result, *, explain: bool) -> None:
    """How it ended and what is proved in a line; the whole guarantee, if asked for."""
    more = f" (--explain lists the {len(result.guarantee.hypotheses)} hypotheses)"
    say(said(result) + more * (result.guarantee.proved and not explain))
    if result.status == "max_iter":
        say("advice: the image still changes; allow more iterations by --max-iter, or stop earlier by a larger --tol.")
    elif result.advice:
        say(f"advice: {result.advice}")
    if explain:
        for line in explained(result.guarantee):
            say(line)


def said(result: Result) -> str:
    """How a solution ended and what is proved of it."""
    head, guarantee, claim = str(result).splitlines()[0], result.guarantee, f"it tends to a {result.guarantee.kind}"
    if result.settings.get("solver") == Denoising.__name__:
        head, claim = "one pass of the denoiser", "it moves no two images apart"
    if not guarantee.proved:
        return f"{head}; {guarantee.title}: {guarantee.failure}"
    return f"{head}; {guarantee.title}: {claim}"


def explained(guarantee: Guarantee) -> list[str]:
    """The theorem, a table of its hypotheses, and what follows; advice stands only beside what failed."""
    rows = [(STATED if h.stated else MET if h.met else UNMET, h.name, show(h.value), h.bound) for h in guarantee.hypotheses]
    wide = [max((len(row[i]) for row in rows), default=0) for i in (1, 2)]
    lines = [f"{guarantee.title}: {guarantee.theorem}", guarantee.statement]
    for (mark, name, value, bound), h in zip(rows, guarantee.hypotheses, strict=True):
        advice = f". {h.advice}" if h.advice and not h.met else ""
        lines.append(f"  {mark} {name:<{wide[0]}}  {value:<{wide[1]}}  must {bound}{advice}")
    lines += [f"existence: {guarantee.existence}", f"rate: {guarantee.rate}"]
    return [*lines, f"failure: {guarantee.failure}"] if guarantee.failure else lines
