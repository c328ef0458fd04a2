"""Evaluation as Python's users have it: it prints as a table and becomes a data frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vldistill.config.plain import Plain
from vldistill.errors import MissingExtraError
from vldistill.evaluation import results
from vldistill.evaluation.tables import evaluation_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Evaluation(results.Evaluation):
    """What students of a set reach on test; ``print`` shows a table."""

    __doc__ = f"{__doc__}\n\n{results.Evaluation.__doc__}"

    @classmethod
    def of(cls, result: results.Evaluation) -> Evaluation:
        """The same evaluation."""
        return cls(**{name: getattr(result, name) for name in result.__dataclass_fields__})

    @property
    def recalls(self) -> dict[str, dict[str, float]]:
        """Means over students in percent: by recipe, ``mean_recall``, ``tr1``, ...; of class sets ``top1``, ... too."""
        return {
            recipe: {name: figure.mean for name, figure in scores.figures.items()}
            for recipe, scores in self.scores().items()
        }

    def to_dict(self) -> dict[str, Plain]:
        """Plain values for JSON: everything that is in its file."""
        return self.to_json()

    def to_pandas(self) -> pd.DataFrame:
        """A row for each student: set, recipe, student and its recalls. Raises MissingExtraError without pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("to_pandas needs the package pandas: pip install pandas. Or use to_dict.") from None
        return pd.DataFrame(
            [
                {"set": self.set, "recipe": recipe, "student": number, **student.measures(), **more}
                for recipe, scores in self.scores().items()
                for number, student in enumerate(scores.students)
                for more in [scores.accuracies[number].to_json() if scores.accuracies else {}]
            ]
        )

    def __str__(self) -> str:
        return evaluation_text([self])

    __repr__ = __str__
