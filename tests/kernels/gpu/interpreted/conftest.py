"""Keeps Triton's interpreter working with numpy 2.4, in the process that runs the checks."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.runtime import interpreter

    _patch_lang_tensor = interpreter._patch_lang_tensor

    def _patch_with_scalars(tensor, scope):
        """Triton 3.6 takes int() of one-element arrays; numpy 2.4 refuses, item() is the same."""
        _patch_lang_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = _patch_with_scalars
else:
    collect_ignore = ["checks.py"]  # test_interpreted.py runs them where the variable is set
