"""Training of dual encoders: recipes, losses, steps, and the loop over them."""

from vldistill.training.data import Inputs, TrainingData
from vldistill.training.recipe import SCHEDULES, Recipe
from vldistill.training.steps import steps_in

__all__ = ["SCHEDULES", "Inputs", "Recipe", "TrainingData", "steps_in"]
