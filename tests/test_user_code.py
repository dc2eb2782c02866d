"""Names of the user's own functions."""

import pytest

from ttq_energy import user_code


@pytest.mark.parametrize("name", ["a:b", "a.b.c:d_1"])
def test_names_of_the_users(name):
    assert user_code.is_user_code(name)


@pytest.mark.parametrize("name", ["a", "a:", ":b", "a b:c", "a..b:c", "a:b.c", "a:1", "a-b:c"])
def test_names_that_are_not(name):
    assert not user_code.is_user_code(name)


def test_loading_gives_the_function_itself():
    assert user_code.load("ttq_energy.user_code:load", "function") is user_code.load
