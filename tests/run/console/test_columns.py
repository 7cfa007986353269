"""Text tables in aligned columns."""

from lightning_cifar.run.console.columns import align_columns


def test_names_of_any_script_leave_the_columns_straight():
    """A Chinese letter takes two columns of a terminal, a combining accent none."""
    rows = [["class", "n"], ["飞机", "10"], ["cafe\u0301", "飞"]]
    assert align_columns(rows) == "class   n\n飞机   10\ncafe\u0301   飞"
