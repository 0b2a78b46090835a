"""The widgets of an `thinsight.explore.Explorer`: choose, and see what stays, what is answered, and what it costs."""

import html
import io
from typing import TYPE_CHECKING

import ipywidgets as widgets

from thinsight.config import names
from thinsight.errors import UserError

if TYPE_CHECKING:
    from thinsight.explore import Explorer, Shown


class Panel:
    """Choices on top; below them the picture stage by stage (``image``) and what it cannot say (``words``)."""

    def __init__(self, explorer: "Explorer", task: str, picture: int, method: str, keep: float) -> None:
        self.explorer = explorer
        later = {"continuous_update": False}
        self.task = widgets.Dropdown(options=names("task"), value=task, description="task")
        self.picture = widgets.IntSlider(picture, 0, explorer.pictures - 1, description="picture", **later)
        self.question = widgets.Text(description="question", layout={"width": "38rem"}, **later)
        self.method = widgets.Dropdown(options=names("method"), value=method, description="method")
        self.keep = widgets.FloatSlider(keep, min=0.02, max=1.0, step=0.0001, readout_format=".0%", **later)
        self.keep.description = "budget"
        self.about, self.words, self.image = widgets.HTML(), widgets.HTML(), widgets.Image(format="png")
        choices = [widgets.HBox([self.task, self.picture]), self.question, widgets.HBox([self.method, self.keep])]
        self.box = widgets.VBox([*choices, self.about, self.image, self.words])
        for widget in (self.task, self.picture):
            widget.observe(self.turn, "value")
        for widget in (self.question, self.method, self.keep):
            widget.observe(self.ask, "value")
        self.turn()

    def turn(self, _: object = None) -> None:
        """Another picture, with its own question."""
        question = self.explorer.row(self.task.value, self.picture.value).question
        if question == self.question.value:
            self.ask()
        else:
            self.question.value = question  # which asks

    def ask(self, _: object = None) -> None:
        """Show what comes of the choices, or the sentence that says why nothing does."""
        name, entry = self.method.value, self.explorer.entry(self.method.value)
        self.keep.disabled = not {"keep", "layer"} & set(entry.knobs)
        self.about.value = f"<em>{html.escape(entry.about)}</em>"
        try:
            shown = self.explorer.show(self.task.value, self.picture.value, name, self.keep.value, self.question.value)
        except UserError as error:
            self.image.layout.display, self.words.value = "none", f"<strong>{html.escape(str(error))}</strong>"
            return
        file = io.BytesIO()
        shown.figure.savefig(file, dpi=130)
        self.image.layout.display, self.image.value, self.words.value = "", file.getvalue(), sentence(shown)


def sentence(shown: "Shown") -> str:
    """Answers, tokens and costs in HTML."""
    known = f", right is <strong>{html.escape(shown.right)}</strong>" if shown.right else ""
    tokens = ", ".join(f"{count:.4g} {what}" for what, count in shown.tokens.items())
    fields = ", ".join(f"{key}={value}" for key, value in shown.fields.items()) or "no budget"
    return (
        f"Answer <strong>{html.escape(shown.answer)}</strong>; "
        f"whole model <strong>{html.escape(shown.whole)}</strong>{known}.<br>"
        f"{fields}: visual tokens {tokens}; {shown.flops:.0%} of the prefill FLOPs, {shown.kv:.0%} of the cache."
    )
