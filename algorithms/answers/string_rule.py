r"""The string rule: normalise the last \boxed{} of a solution and the gold answer, then compare the strings.

Most MATH graders start from this rule (the normalisation of Hendrycks et al., arXiv 2103.03874). It is the
baseline for our grader and does no mathematics.
"""

import re

from algorithms.answers.extraction import closing_brace


def string_correct(gold: str, solution: str) -> bool:
    """Whether a solution is right by the string rule. A solution without a braced box is wrong."""
    start = solution.rfind(r"\boxed{")
    end = closing_brace(solution, start + len(r"\boxed")) if start >= 0 else None
    if end is None or not gold:
        return False
    return normalise(solution[start + len(r"\boxed{") : end]) == normalise(gold)


def normalise(answer: str) -> str:
    """Remove spacing, units and degree, percent and dollar signs; add the braces of short fractions."""
    text = answer.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(r"\left", "").replace(r"\right", "")
    text = text.replace(r"^{\circ}", "").replace(r"^\circ", "").replace(r"\$", "").split(r"\text{ ")[0]
    text = text.replace(r"\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:  # x = 5
        text = sides[1]
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", text)
    return r"\frac{1}{2}" if text == "0.5" else text
