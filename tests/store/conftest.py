import pytest

# The suite isn't named test_…, so pytest needs to be told to explain its failures.
pytest.register_assert_rewrite(f"{__name__.rpartition('.')[0]}.conformance")
