"""Tables on the terminal."""

from __future__ import annotations

import pytest

from adar_ray.cli.output import show

BIG = ["12.5000", "1,234.6", "1,234,567"]


def test_numbers_in_a_table_keep_what_tells_them_apart(capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.0, 0.4213, 1e-2, 3e-5, 3.4e-4, -0.00512, 12.5, 1234.56, 1_234_567, True, None]
    show([{"value": value} for value in values], False)
    cells = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert cells == ["0.0000", "0.4213", "0.0100", "3e-05", "0.00034", "-0.00512", *BIG, "yes", ""]
