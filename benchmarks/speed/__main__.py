"""Print what was measured and what was wanted, from the committed results.

python -m benchmarks.speed
"""

from __future__ import annotations

from benchmarks.arguments import argument_parser
from benchmarks.speed.targets import rows


def main() -> None:
    argument_parser(__doc__).parse_args()
    table = [row.cells() for row in rows()]
    table.insert(0, {name: name for name in table[0]})
    widths = {name: max(len(line[name]) for line in table) for name in table[0]}
    for line in table:
        print("  ".join(cell.replace("*", "").ljust(widths[name]) for name, cell in line.items()).rstrip())


if __name__ == "__main__":
    main()
