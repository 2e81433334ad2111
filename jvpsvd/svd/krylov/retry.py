"""The signal by which a solve begins again with other parameters."""

from __future__ import annotations


class RetryWith(Exception):  # noqa: N818 - a signal within the solver, no error
    """Raised within a solve to make its solver begin again with one parameter changed.

    It never reaches a caller.

    Args:
        block_size: The wider block size, because a repeated value fills the present block.
        keep_left: Whether to keep U, because it must be reorthogonalised.
        loss: The orthogonality that U may lose, because the previous loss spoiled the residuals.
        forms_left: Whether to form U, because rounding of A'A spoils what is found without it.
    """

    def __init__(
        self,
        *,
        block_size: int | None = None,
        keep_left: bool | None = None,
        loss: float | None = None,
        forms_left: bool | None = None,
    ) -> None:
        super().__init__("the solve begins again")
        self.block_size, self.keep_left, self.loss = block_size, keep_left, loss
        self.forms_left = forms_left
