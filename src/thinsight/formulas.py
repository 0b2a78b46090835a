"""TeX in a notebook's text -> MathML, which browsers draw by themselves, without a network or a script."""

import re

_PARTS = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)"  # code stays as it is
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])",  # never "5$ and 6$"
    re.DOTALL,
)


def to_mathml(text: str) -> str:
    """Markdown with ``$...$`` and ``$$...$$`` replaced. A formula that cannot be read raises, naming it."""
    from latex2mathml.converter import convert

    def draw(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        display, tex = ("block", match["block"]) if match["block"] else ("inline", match["inline"])
        return convert(tex.strip(), display=display).replace("\n", " ")

    return _PARTS.sub(draw, text)
