"""What happens beside the arithmetic of a step, as ordered callbacks."""

from recipe_exp.training.callbacks.callback import EVENTS, Callback, CallbackList, import_callbacks

__all__ = ["EVENTS", "Callback", "CallbackList", "import_callbacks"]
