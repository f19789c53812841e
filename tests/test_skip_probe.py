import pytest


@pytest.mark.browser
def test_a(): ...
@pytest.mark.saelens
def test_b(): ...
