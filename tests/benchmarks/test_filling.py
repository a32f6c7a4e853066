"""The tree of the large drive: as many of each as asked for, and nothing before the directory it is in."""

import pytest

from benchmarks.filling import FAN_OUT, Shape, tree


@pytest.mark.parametrize(("files", "directories", "wide"), [(1000, 50, 7), (3, 80, 0), (0, 1, 2), (10, 1, 0)])
def test_a_tree_has_what_its_shape_says(files: int, directories: int, wide: int) -> None:
    shape = Shape(files, directories, wide)
    made = list(tree(shape))
    assert len(made) == shape.inode_count
    assert sum(is_directory for _, _, is_directory in made) == directories + 1
    names = {(parent, name) for parent, name, _ in made}
    assert len(names) == len(made)
    counts = [
        sum(parent == each and not is_directory for parent, _, is_directory in made) for each in range(directories)
    ]
    assert sum(counts) == files
    assert max(counts) - min(counts) <= 1
    assert sum(parent == directories for parent, _, _ in made) == wide


def test_directories_come_before_what_is_in_them_and_hold_few_others() -> None:
    known = 0
    children: dict[int, int] = {}
    for parent, _, is_directory in tree(Shape(500, 200, 5)):
        assert parent is None or parent < known
        if is_directory:
            known += 1
            if parent is not None:
                children[parent] = children.get(parent, 0) + 1
    assert max(children.values()) == FAN_OUT
