"""Keeps Triton's interpreter working with numpy 2.4."""

from triton.runtime import interpreter


def accept() -> None:
    """Triton 3.6 takes int() of one-element arrays; numpy 2.4 refuses, item() is the same."""
    patch_lang_tensor = interpreter._patch_lang_tensor

    def patch_with_scalars(tensor, scope):
        patch_lang_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_with_scalars
