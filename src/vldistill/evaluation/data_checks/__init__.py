"""What the numbers of an evaluation can mean: checks of the data that stand beside every headline.

One check a file; each gives a score, a flag and a summary. :func:`check_pairs` needs captions alone; near-duplicate
photos are searched among decoded pictures (:mod:`.near_duplicates`).
"""

from __future__ import annotations

from vldistill.evaluation.data_checks.check import Check as Check
from vldistill.evaluation.data_checks.every import check_data as check_data
from vldistill.evaluation.data_checks.every import check_pairs as check_pairs
from vldistill.evaluation.data_checks.every import check_vectors as check_vectors
