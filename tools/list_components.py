"""Print every registered component with the first line of its documentation.

python tools/list_components.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    from vipo.registry import ROOTS

    for name, registry in ROOTS.items():
        registry.import_from_location()
        print(f'\n{name}')
        for key, component in sorted(registry.module_dict.items()):
            print(f'  {key:24s} {(component.__doc__ or "").strip().splitlines()[0]}')


if __name__ == '__main__':
    main()
