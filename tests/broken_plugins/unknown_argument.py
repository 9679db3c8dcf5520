"""Takes an argument that its hook does not give."""

from srum_plugins import hookimpl


@hookimpl
def srum_train_step_finished(step: int, loss: float) -> None:
    print(step, loss)
